"""Tensors out of a file, without running anything that the file says.

Safetensors, and torch files as the published ones are: the tensors under a key such as `model` (`unwrapping`), beside
optimizer states, numbers and the training script's arguments. Those are pickled objects of a few known classes, for
which inert stand-ins are read; a file that names any other class is refused before that class is looked up.

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
from fd_scale.finite import not_finite
from fd_scale.models.weights.sealed import check_content
from fd_scale.models.weights.unwrapping import few, unwrapped


class Inert:
    """Stand-in for an object of a known class, which takes what the file gives it and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping:
    """Stand-in for a mapping of a known class.

    torch's reader fills no other mappings than plain ones.
    """

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
    """Tensors of a file, and what the file says of them.

    tensors: under the file's own names.
    key: where they stood in it ("" at its root, "model", "model.student").
    aside: what else was there.
    metadata: of a safetensors file.
    trained_windows: those of the position bias.
    window, image_size: in use, where the source is a model of timm's that says them.
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
        """Describe the source for a report, where in it the tensors were, and what was beside them."""
        return self.source + self.where

    @property
    def where(self) -> str:
        """Addition to a name: " (under model_ema, beside model)", or nothing."""
        beside = f"beside {few(list(self.aside))}" if self.aside else ""
        under = f"under {self.key}" if self.key else ""
        return f" ({', '.join(filter(None, (under, beside)))})" if under or beside else ""


def read_file(path: str | Path, key: str | None = None) -> WeightsFile:
    """Read all tensors of a file, on the CPU.

    Args:
        key: take those under this key, or whose names begin with it; keys within keys are joined by dots. `raw`: the
            weights also where an average of them is beside. By default the average, where the file has one.

    Raises:
        BadInput: no such file, not a whole one or not what was written, a program, nothing in it that is a mapping of
            tensors, or tensors that are empty or hold NaN or infinity.
        Retry: storage does not answer.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        content, metadata = _safetensors(path)
    else:
        content, metadata = _torch_file(path), {}
    tensors, keys, aside = unwrapped(content, key, str(path))
    refuse_unusable(tensors, str(path))
    return WeightsFile(str(path), tensors, ".".join(keys), tuple(aside), metadata)


def refuse_unusable(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that no model can use.

    Raises:
        BadInput: a tensor is empty or holds NaN or infinity.
    """
    empty = [name for name, tensor in tensors.items() if not tensor.numel()]
    if empty:
        raise BadInput(
            f"{what}: {len(empty)} of its {len(tensors)} tensors are empty, first {empty[0]}: so DeepSpeed leaves "
            "weights that ZeRO-3 has spread over ranks. Run `python zero_to_fp32.py . OUT` in that checkpoint's "
            "folder, or save with stage3_gather_16bit_weights_on_model_save, and give that file"
        )
    spread = [name for name, tensor in tensors.items() if not _holds_its_numbers(tensor)]
    if spread:
        raise BadInput(
            f"{what}: {len(spread)} of its {len(tensors)} tensors are sparse, without numbers, or show fewer numbers "
            f"than they have, first {spread[0]}; save {{name: tensor.clone()}} of dense ones"
        )
    wrong = not_finite(tensors.items())
    if wrong:
        raise BadInput(
            f"{what}: {len(wrong)} of its {len(tensors)} tensors hold NaN or infinity: {few(wrong)}; take a file from "
            "before that training failed, or download it again"
        )


def _holds_its_numbers(tensor: Tensor) -> bool:
    """Not so a view that shows numbers more than once: a small file can ask for any amount of memory by it."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


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
            f"{path} holds pickled code or is no torch file{_named(error)}: save its tensors alone{_advice(error)}"
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


def _advice(error: Exception) -> str:
    if "GLOBAL deepspeed." not in str(error):
        return ""
    return "; of DeepSpeed's checkpoints run `python zero_to_fp32.py . OUT` in their folder, and give that file"


def _named(error: Exception) -> str:
    """The class that the file asked for, out of torch's message of many lines."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" (it asks for {rest.split()[0]})" if found and rest.split() else ""
