"""Tensors out of a file, without running anything that the file says.

Safetensors, and torch files as the published ones are: the tensors under a key such as `model`, beside optimizer
states, numbers and the training script's arguments. Those are pickled objects of a few known classes, for which inert
stand-ins are read; a file that names any other class is refused before that class is looked up.

Left out: TorchScript archives and pickles of whole modules, which are programs.
"""

import errno
import pickle
import reprlib
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
from fd_scale.models.config import RAW
from fd_scale.models.weights.sealed import check_content

AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
"""Keys under which training scripts keep a moving average of the weights beside them. It is what they evaluate, so it
is what is taken; for teachers, students and conversion alike."""
WRAPPERS = ("model", "state_dict", "teacher", "student", "module")
"""Keys under which published files hold the tensors, in order of preference. DINO's teacher is the average of its
student, and what its authors evaluate."""
LONGEST_KEY = 80
"""Letters of a key that are shown."""
DEEPEST = 4
"""Wrappers around wrappers that are looked into."""


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
    `aside`: what else was there; `metadata` of a safetensors file; `trained_windows` of the position bias,
    `window` in use and `image_size`, where the source is a model of timm's that says them.
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
        return self.source + self.where

    @property
    def where(self) -> str:
        """Behind a name: " (under model_ema, beside model)", or nothing."""
        beside = f"beside {few(list(self.aside))}" if self.aside else ""
        under = f"under {self.key}" if self.key else ""
        return f" ({', '.join(filter(None, (under, beside)))})" if under or beside else ""


def read_file(path: str | Path, key: str | None = None) -> WeightsFile:
    """All tensors of a file, on the CPU.

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
    """Raises:
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


def unwrapped(content: Any, key: str | None, what: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The tensors of what a file held, the keys that led to them, and what was left aside."""
    keys: list[str] = []
    aside: list[str] = []
    if key is not None and key != RAW:
        content, keys, aside = _under(content, key, what)
    usual = WRAPPERS if key == RAW else (*AVERAGES, *WRAPPERS)
    around: list[Any] = []
    while (name := next((name for name in usual if _leads_on(content, name)), None)) is not None:
        around.append(content)
        if any(content[name] is outer for outer in around) or len(around) > DEEPEST:
            raise BadInput(f"{what} holds itself under {name}, or wrappers without end; save its state dict alone")
        aside += [_short(other) for other in content if other != name]
        keys.append(name)
        content = content[name]
    if not isinstance(content, Mapping):
        raise BadInput(f"{what} holds a {type(content).__name__}, not a mapping of tensors; save its state dict alone")
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        known = ", ".join((*AVERAGES, *WRAPPERS))
        raise BadInput(
            f"{what} holds no tensors by name, at its root or under {known}; its keys: {few(content)}; "
            "save its state dict alone"
        )
    aside += [_short(name) for name, value in content.items() if not isinstance(value, Tensor)]
    prefix = None if key == RAW else next((name for name in AVERAGES if _is_average(name, tensors)), None)
    if prefix is not None:
        tensors, left = _beginning_with(tensors, prefix)
        keys, aside = [*keys, prefix], [*aside, *left]
    return tensors, keys, aside


def _under(content: Any, key: str, what: str) -> tuple[Mapping[str, Any], list[str], list[str]]:
    """What stands under a key of the user's, as for `unwrapped`."""
    keys: list[str] = []
    aside: list[str] = []
    whole, rest = content, key
    while rest:
        name = next((n for n in _beginnings(rest) if isinstance(_get(content, n), Mapping)), None)
        if name is None:
            break
        aside += [_short(other) for other in content if other != name]
        keys.append(name)
        content, rest = content[name], rest[len(name) + 1 :]
    if rest:
        tensors, left = _beginning_with(content if isinstance(content, Mapping) else {}, rest)
        if not tensors:
            raise BadInput(f"{what} holds no mapping under {key!r}; its keys: {few(whole)}")
        content, keys, aside = tensors, [*keys, rest], [*aside, *left]
    return content, keys, aside


def _beginnings(key: str) -> list[str]:
    """a.b.c -> a.b.c, a.b, a"""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _leads_on(content: Any, name: str) -> bool:
    """Whether tensors stand under a usual key."""
    if name == "ema_state_dict" and _get(content, "message_hub") is not None:
        return False  # MMEngine exchanges the two before it saves: its average is `state_dict`
    return isinstance(_get(content, name), Mapping) and _holds_tensors(content[name])


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    """To a limited depth. Each mapping is looked into once, however often it is in others or in itself."""
    level, known = [content], {id(content)}
    for _ in range(DEEPEST):
        values = [value for mapping in level for value in mapping.values()]
        if any(isinstance(value, Tensor) for value in values):
            return True
        level = []
        for value in values:
            if isinstance(value, Mapping) and id(value) not in known:
                known.add(id(value))
                level.append(value)
    return False


def _is_average(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether names that begin so are those of a model, and not of the numbers that an average keeps for itself."""
    return any(name.startswith(f"{prefix}.") and name.count(".") > 2 for name in tensors)


def _beginning_with(content: Mapping[Any, Any], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors whose names begin with a prefix, without it, and the beginnings of all other names."""
    found = {
        name.removeprefix(f"{prefix}."): value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor) and name.startswith(f"{prefix}.")
    }
    names = [name if isinstance(name, str) else _short(name) for name in content]
    others = dict.fromkeys(name.split(".")[0] for name in names if not name.startswith(f"{prefix}."))
    return found, list(others)


def _get(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, Mapping) else None


def _short(name: Any) -> str:
    """Of a key of a file, which may be any object."""
    text = name if isinstance(name, str) else reprlib.repr(name)
    return text if len(text) <= LONGEST_KEY else f"{text[:LONGEST_KEY]}..."


def few(content: Any) -> str:
    names = [_short(name) for name in content] if isinstance(content, Mapping | list) else []
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
