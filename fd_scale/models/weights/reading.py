"""Tensors out of a file, without running anything that the file says.

Safetensors, and torch files as the published ones are: the tensors under a key such as `model`, beside optimizer
states, numbers and the training script's arguments. Those are pickled objects of a few known classes, for which inert
stand-ins are read; a file that names any other class is refused before that class is looked up.

Left out: TorchScript archives and pickles of whole modules, which are programs.
"""

import errno
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fd_scale.errors import BadInput, Retry
from fd_scale.models.weights.sealed import check_content
from fd_scale.models.weights.windows import exported_windows

WRAPPERS = ("model", "state_dict", "teacher", "student", "module")
"""Keys under which published files hold the tensors, in order of preference. DINO's teacher is the average of its
student, and what its authors evaluate."""


class Inert:
    """Stands for an object of a known class: takes what the file gives it and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping:
    """Stands for a mapping of a known class. torch's reader fills no other mappings than plain ones."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


HARMLESS = {
    "argparse.Namespace": Inert,  # MAE, DINO, DeiT, BEiT: the arguments of the run
    "pathlib.PosixPath": Inert,
    "pathlib.WindowsPath": Inert,
    "numpy.dtype": Inert,
    "numpy.core.multiarray.scalar": Inert,  # a best accuracy, a learning rate
    "numpy._core.multiarray.scalar": Inert,
    "yacs.config.CfgNode": InertMapping,  # Swin, SimMIM, feature distillation: its configuration
    "fvcore.common.config.CfgNode": InertMapping,
    "easydict.EasyDict": InertMapping,
}
"""Classes that a file may name, and what is made instead of them."""


@dataclass(frozen=True)
class WeightsFile:
    """`tensors` under the file's own names; `key`: where they stood in it ("" at its root, "model", "model.student");
    `aside`: what else was there; `metadata` of a safetensors file; `trained_windows` of a SwinV2, `window` in
    use and `image_size`, where the source says them otherwise than by tensors.
    """

    source: str
    tensors: dict[str, Tensor]
    key: str = ""
    aside: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    trained_windows: tuple[int, ...] | None = None
    window: int | None = None
    image_size: int | None = None

    def described(self) -> str:
        """For a report: the source, where in it the tensors were, and what was beside them."""
        beside = f", beside {', '.join(self.aside)}" if self.aside else ""
        return f"{self.source} (under {self.key}{beside})" if self.key else self.source + beside


def read_file(path: str | Path, key: str | None = None) -> WeightsFile:
    """All tensors of a file, on the CPU. `key`: take those under this key instead of the usual ones.

    Raises:
        BadInput: no such file, not a whole one or not what was written, a program, or nothing in it that is a mapping
            of tensors.
        Retry: storage does not answer.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
        return WeightsFile(str(path), tensors, metadata=metadata, trained_windows=exported_windows(metadata))
    content = _torch_file(path)
    tensors, keys, aside = unwrapped(content, key, str(path))
    return WeightsFile(str(path), tensors, ".".join(keys), tuple(aside))


def unwrapped(content: Any, key: str | None, what: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The tensors of what a torch file held, the keys that led to them, and what was left aside."""
    keys: list[str] = []
    aside: list[str] = []
    while True:
        inside = [
            name for name in ([key] if key and not keys else WRAPPERS) if isinstance(_get(content, name), Mapping)
        ]
        if key and not keys and not inside:
            raise BadInput(f"{what} holds no mapping under {key!r}; its keys: {_few(content)}")
        if not inside:
            break
        aside += [str(name) for name in content if name != inside[0]]
        keys.append(inside[0])
        content = content[inside[0]]
    if not isinstance(content, Mapping):
        raise BadInput(f"{what} holds a {type(content).__name__}, not a mapping of tensors; save its state dict alone")
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        known = ", ".join(WRAPPERS)
        raise BadInput(
            f"{what} holds no tensors by name, at its root or under {known}; its keys: {_few(content)}; "
            "save its state dict alone"
        )
    aside += [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    return tensors, keys, aside


def _get(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, Mapping) else None


def _few(content: Any) -> str:
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error
    except OSError as error:
        raise Retry(f"{path} could not be read: {error}") from error
    check_content(metadata, sorted(tensors.items()), path)
    return tensors, metadata


def _torch_file(path: Path) -> Any:
    if _is_torchscript(path):
        raise BadInput(
            f"{path} is a TorchScript archive, a program and not only weights (as OpenAI's CLIP files are): where you "
            "trust it, save torch.jit.load(PATH).state_dict() to a file of its own and give that"
        )
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in HARMLESS.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} holds pickled code or is no torch file{_named(error)}: save its tensors alone"
        ) from error
    except MemoryError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # with which torch answers to a torn archive
            raise Retry(f"{path} could not be read: {error}") from error
        raise BadInput(f"{path} is not a whole torch file") from error
    except Exception as error:  # whatever torn or hostile bytes raise in torch's reader of pickles
        words = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is not a whole torch file: {type(error).__name__}: {words}") from error


def _is_torchscript(path: Path) -> bool:
    """A zip with code in it. torch would say so as well, in several lines."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _named(error: Exception) -> str:
    """The class that the file asked for, out of torch's message of many lines."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" (it asks for {rest.split()[0]})" if found and rest.split() else ""
