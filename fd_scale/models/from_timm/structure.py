"""The structure of a timm model as a student: made once, without memory for its weights, and probed.

`outline_of` answers what cannot be asked of a model that is built in shards: its width, its prefix tokens, whether it
gives a map of tokens at all, and whether its drop path can be keyed by sample. It refuses what would make a result
depend on micro-batch or rank: batch norm, and drop path that is applied to something else than samples.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from timm.layers import DropPath as TimmDropPath
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fd_scale.errors import BadInput
from fd_scale.models.drop_path import DropPath
from fd_scale.models.from_timm.catalogue import (
    as_tokens,
    check_divisible,
    check_name,
    first_words,
    has_windows,
    last_norm,
    leave_features_only,
    outline,
    size_arguments,
    stride_of,
)

PROBE_IMAGES = 3
"""Odd, to tell a batch of images from one of windows."""
NO_DROP_PATH = "timm:{name} has no drop path: set student.drop_path=0"


class KeyedPath(DropPath):
    """Drop path with the call of timm's `DropPath`, in whose place it stands: branch in, branch or zero out.

    It takes the draws that were left here, once.
    """

    draws: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:  # type: ignore[override]
        draws, self.draws = self.draws, None
        if not self.training or self.rate == 0:
            return branch
        if draws is not None and len(draws) != len(branch):
            raise ValueError(f"{len(draws)} draws of drop path for a batch of {len(branch)}")
        return super().forward(branch.new_zeros(()), branch, draws)


@dataclass(frozen=True)
class Outline:
    """Structure of a timm model.

    model: with real buffers, but parameters without memory.
    blocks: names of its blocks in forward order.
    """

    model: Any
    blocks: tuple[str, ...]
    width: int
    num_prefix_tokens: int
    stride: int
    channels_last: bool
    arguments: dict[str, Any]


@lru_cache(maxsize=4)
def outline_of(name: str, image_size: int, drop_path: float, trained: bool, window: int | None = None) -> Outline:
    """Make the structure of a timm model; it is remembered.

    Ask first outside of `deepspeed.zero.Init`, which replaces torch's constructors.

    Args:
        trained: it will get weights, for which SwinV2 goes on scaling its position bias by the native window.
        window: of a Swin, in place of the native one.

    Raises:
        BadInput: a name unknown to timm, a size that does not fit, or a model that cannot be a student.
    """
    check_name(name)
    native = outline(name, {})
    if not all(parameter.is_meta for parameter in native.parameters()):
        raise RuntimeError(f"build the student timm:{name} once before building it in shards")
    stride = stride_of(native)
    check_divisible(f"timm:{name}", image_size, stride)
    arguments = size_arguments(native, image_size)
    if not trained:
        arguments.pop("pretrained_window_sizes", None)
    if window is not None:
        if not has_windows(native):
            raise BadInput(f"timm:{name} has no windows that a key could set: remove student.window")
        arguments["window_size"] = window
    model = _with_drop_path(name, arguments, drop_path)
    leave_features_only(model)
    _refuse_state(name, model)
    paths = _key_drop_paths(model)
    if drop_path and not paths:
        raise BadInput(NO_DROP_PATH.format(name=name))
    tokens = _probe(name, model, image_size, paths)
    prefix, side = getattr(model, "num_prefix_tokens", 0), image_size // stride
    if len(tokens) != 3 or tokens[1] != prefix + side * side:
        raise BadInput(
            f"timm:{name} gives {'x'.join(map(str, tokens[1:]))} values for {image_size} x {image_size} pixels, not "
            f"{prefix} tokens and a map of {side} x {side}: it cannot be a student, use another"
        )
    with torch.device("cpu"):  # whatever device the caller builds on: the outline is kept, and this is all it holds
        _fill_buffers(name, model)
    return Outline(model, _block_names(model), tokens[2], prefix, stride, is_channels_last(model), arguments)


def _with_drop_path(name: str, arguments: dict[str, Any], drop_path: float) -> Any:
    """0 is said as well: timm's Swin drops a tenth by default."""
    try:
        return outline(name, {**arguments, "drop_path_rate": drop_path})
    except BadInput as error:
        if "unexpected keyword argument 'drop_path_rate'" not in str(error):
            raise
        if drop_path:
            raise BadInput(NO_DROP_PATH.format(name=name)) from error
    return outline(name, arguments)


def is_channels_last(model: Any) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _refuse_state(name: str, model: nn.Module) -> None:
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise BadInput(
            f"timm:{name} has batch norm, whose statistics depend on the micro-batch and the rank: as a student take a "
            "model with layer norm, e.g. timm:convnext_base or timm:swin_base_patch4_window7_224"
        )
    if model.state_dict().keys() != dict(model.named_parameters(remove_duplicate=False)).keys():
        raise BadInput(f"timm:{name} keeps state beside its parameters, which a student cannot: use another")


def _key_drop_paths(model: nn.Module) -> list[KeyedPath]:
    """Puts a `KeyedPath` in the place of each `DropPath`; in the order of the modules."""
    paths = []
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, TimmDropPath):
                setattr(module, key, path := KeyedPath(child.drop_prob))
                paths.append(path)
    return [path for path in model.modules() if isinstance(path, KeyedPath)] if paths else []


def _probe(name: str, model: Any, image_size: int, paths: list[KeyedPath]) -> torch.Size:
    """The shape of the tokens, from a pass in training mode on the meta device, which costs nothing."""
    for path in paths:
        path.draws = torch.empty(PROBE_IMAGES, device="meta")
    try:
        with torch.no_grad(), torch.device("meta"):
            model.train()
            features = model.forward_features(torch.empty(PROBE_IMAGES, 3, image_size, image_size))
            norm = last_norm(model)
            tokens = as_tokens(features if norm is None else norm(features), channels_last=is_channels_last(model))
    except ValueError as error:
        if "drop path" not in str(error):
            raise
        raise BadInput(f"timm:{name} has drop path that cannot be keyed by sample: set student.drop_path=0") from error
    except Exception as error:  # whatever a model makes of a size, or of a call that it does not offer
        raise BadInput(f"timm:{name} cannot be a student at {image_size} px ({first_words(error)})") from error
    if any(path.draws is not None for path in paths):
        raise BadInput(f"timm:{name} drops paths where no call shows it: set student.drop_path=0")
    return tokens.shape


def _fill_buffers(name: str, model: nn.Module) -> None:
    """The values that constructors computed, which are none on the meta device: timm computes them again.

    It looks at parameters for the device. So they become numbers on the CPU that are repeated without memory.
    """
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            repeated = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            module._parameters[key] = nn.Parameter(repeated, parameter.requires_grad)
        for key, buffer in module.named_buffers(recurse=False):
            module._buffers[key] = torch.full_like(buffer, _unset_value(buffer), device="cpu")
    reinit_non_persistent_buffers(model)
    for key, buffer in model.named_buffers():
        if buffer.isnan().any() or (buffer == _unset_value(buffer)).all():
            raise BadInput(f"timm:{name} computes its buffer {key} only while it is built, so it cannot be a student")


def _unset_value(buffer: Tensor) -> float | bool | int:
    if buffer.is_floating_point():
        return float("nan")
    return True if buffer.dtype == torch.bool else torch.iinfo(buffer.dtype).min


def _block_names(model: nn.Module) -> tuple[str, ...]:
    """The members of the outermost lists that are called `blocks`, as in all of timm's transformers."""
    names: list[str] = []
    for name, module in model.named_modules():
        owner, _, last = name.rpartition(".")
        if last == "blocks" and "blocks" not in owner.split(".") and isinstance(module, nn.Sequential | nn.ModuleList):
            names += [f"{name}.{key}" for key, _ in module.named_children()]
    return tuple(names)
