"""timm's models by name: what they are called, what they need for an image size, and where their tokens come out.

Used by teachers and by students that come from timm. timm names each set of weights `ARCHITECTURE.TAG`; the tag carries
pixel statistics and licence. Leaves out weights: see `fd_scale.models.weights.timm_loading`.
"""

import difflib
from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fd_scale.errors import BadInput


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, and CLIP names with the wrong activation.

    Raises:
        BadInput: it is one of these; the line names the nearest that is not.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture) or (tag and name not in get_arch_pretrained_cfgs(architecture)):
        near = difflib.get_close_matches(name, [*timm.list_models(pretrained=True), *timm.list_models()], 3, cutoff=0.5)
        raise BadInput(
            f"timm {timm.__version__} has no model {name!r}" + (f"; near: {', '.join(near)}" if near else "")
        )
    notes = get_pretrained_cfg(name).notes or ()
    if "quickgelu" not in architecture and any("natively QuickGELU" in note for note in notes):
        right = name.replace("_clip_", "_clip_quickgelu_")
        raise BadInput(f"timm:{name} applies GELU to weights trained with QuickGELU; write timm:{right}")


class Unfilled(TorchFunctionMode):
    """Mode that leaves out what constructors write into tensors without memory: half of the time of an outline."""

    WRITES = frozenset(
        getattr(Tensor, name)
        for name in ("uniform_", "normal_", "erfinv_", "mul_", "add_", "div_", "clamp_", "fill_", "zero_")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.WRITES and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def outline(name: str, kwargs: dict[str, Any]) -> Any:
    """Build the model on the meta device, which costs neither time nor memory.

    Raises BadInput where timm cannot build it.
    """
    with torch.device("meta"), Unfilled():
        try:
            return timm.create_model(name, **kwargs)
        except Exception as error:  # whatever timm makes of arguments from a file or a configuration
            raise BadInput(f"timm cannot build {name} with {kwargs}: {first_words(error)}") from error


def stride_of(model: Any) -> int:
    """Pixels per token of the last map."""
    return int(model.feature_info[-1]["reduction"])


def native_size(model: Any) -> int:
    """Side in pixels of the images that its published weights were trained on."""
    return int(model.pretrained_cfg["input_size"][-1])


def check_divisible(name: str, image_size: int, stride: int) -> None:
    """Refuse an image size that the stride does not divide.

    Raises:
        BadInput: it does not; the line names the sizes next to it.
    """
    if image_size < stride or image_size % stride:
        below = image_size // stride * stride
        sizes = f"{below} or {below + stride}" if below else f"{stride}"
        raise BadInput(
            f"{name}: images of {image_size} pixels are not divisible by its stride of {stride}; use {sizes}"
        )


def size_arguments(model: Any, image_size: int) -> dict[str, Any]:
    """Arguments that timm needs for images of another size than the native one, which `model` was built for.

    SwinV2's windows shrink to small maps, and grow back on large ones. Its position bias is a function of coordinates
    that timm would then divide by the new window: the same weights would give another bias. Named as the window of
    pretraining, the native one goes on scaling them.
    """
    arguments: dict[str, Any] = {}
    if model.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = image_size
    attentions = _first_attentions(model)
    if attentions and all(hasattr(attention, "pretrained_window_size") for attention in attentions):
        arguments["pretrained_window_sizes"] = tuple(
            attention.pretrained_window_size[0] or attention.window_size[0] for attention in attentions
        )
    return arguments


def has_windows(model: Any) -> bool:
    """Whether a model is a Swin or SwinV2, whose constructors take `window_size`."""
    attentions = _first_attentions(model)
    return bool(attentions) and all(hasattr(attention, "window_size") for attention in attentions)


def first_words(error: Exception) -> str:
    """Summarise an error's kind and message in one line of a readable length."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= 300 else f"{words[:300]} ..."


def _first_attentions(model: Any) -> list[Any]:
    """Of each stage of a model that has such."""
    stages = [layer for layer in getattr(model, "layers", ()) if len(getattr(layer, "blocks", ())) > 0]
    return [getattr(stage.blocks[0], "attn", None) for stage in stages]


def tags(name: str) -> dict[str, Any]:
    """List the published sets of weights of an architecture: tag -> timm's facts of it."""
    return dict(get_arch_pretrained_cfgs(name.split(".")[0]))


def published(name: str) -> bool:
    """Whether timm publishes weights under exactly that name."""
    return bool(get_pretrained_cfg(name).has_weights)


def licence_of(name: str) -> str:
    return get_pretrained_cfg(name).license or "not stated by timm"


def leave_features_only(model: Any) -> None:
    """Remove the classifier and the attention pooling.

    SigLIP's pooling is a tenth of a base model, and no token needs it.
    """
    model.reset_classifier(0)
    if isinstance(getattr(model, "attn_pool", None), nn.Module):
        model.attn_pool = None


def as_tokens(features: Tensor, *, channels_last: bool) -> Tensor:
    """Convert what `forward_features` gives, (B, L, C) or a map, to tokens (B, L, C), the map by rows."""
    if features.ndim != 4:
        return features
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def last_norm(model: nn.Module) -> nn.Module | None:
    """Find the final norm where timm applies it only behind the pooling.

    It is `fc_norm` of ViTs, and the head's of conv nets.
    """
    for norm in (getattr(model, "fc_norm", None), getattr(getattr(model, "head", None), "norm", None)):
        if norm is not None and not isinstance(norm, nn.Identity):
            return norm
    return None
