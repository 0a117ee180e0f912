"""timm's models by name: outlines without memory, weights through timm's own strict converters, one line for what fails.

Used by teachers and by students that come from timm. timm names each set of weights `ARCHITECTURE.TAG`; the tag carries
pixel statistics and licence. Leaves out what a model's tokens mean: see `fd_scale.teachers` and `models.timm_student`.
"""

import contextlib
import difflib
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model
from torch import Tensor, nn

from fd_scale.errors import BadInput

HUB_SECONDS = 10.0
"""How long the hub may take to say that it is there; its client's own retries take 46 s before they give up."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
"""Names of weights in a hub repository that its client may have stored on this machine before."""


def check_name(name: str) -> None:
    """Raises BadInput for a name unknown to timm, with the nearest, and for CLIP names with the wrong activation."""
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


def outline(name: str, kwargs: dict[str, Any]) -> Any:
    """The model on the meta device, which costs neither time nor memory. Raises BadInput where timm cannot build it."""
    with torch.device("meta"):
        try:
            return timm.create_model(name, **kwargs)
        except Exception as error:  # whatever timm makes of arguments from a file or a configuration
            raise BadInput(f"timm cannot build {name} with {kwargs}: {first_words(error)}") from error


def stride_of(model: Any) -> int:
    """Pixels per token of the last map."""
    return int(model.feature_info[-1]["reduction"])


def native_size(model: Any) -> int:
    """Pixels a side of the images that its published weights were trained on."""
    return int(model.pretrained_cfg["input_size"][-1])


def size_arguments(model: Any, image_size: int) -> dict[str, Any]:
    """What timm must be told for images of another size than the native one, which `model` was built for.

    SwinV2's windows shrink to small maps, and grow back on large ones. Its position bias is a function of coordinates
    that timm would then divide by the new window: the same weights would give another bias. Named as the window of
    pretraining, the native one goes on scaling them.
    """
    arguments: dict[str, Any] = {}
    if model.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = image_size
    attentions = [getattr(layer.blocks[0], "attn", None) for layer in getattr(model, "layers", ()) if _has_blocks(layer)]
    if attentions and all(hasattr(attention, "pretrained_window_size") for attention in attentions):
        arguments["pretrained_window_sizes"] = tuple(
            attention.pretrained_window_size[0] or attention.window_size[0]  # type: ignore[union-attr]
            for attention in attentions
        )
    return arguments


def create(name: str, kwargs: dict[str, Any], settings: dict[str, Any], path: Path | None) -> Any:
    """A model with the weights of `path`, or for None those that timm fetches; `settings` override timm's own facts.

    Raises BadInput without network where it is needed, and for a file of other weights.
    """
    if path is None:
        _look_for_hub(name)
        try:
            return timm.create_model(name, pretrained=True, **kwargs)
        except Exception as error:  # the hub's client raises a dozen kinds
            raise _unreachable(name, error) from error
    check_file(path)
    try:
        return _load(name, kwargs, settings, path)
    except Exception as first:  # torch, safetensors and timm's converters each raise their own kinds
        with contextlib.suppress(Exception):
            return _load(name, {**kwargs, "num_classes": 0}, settings, path)  # a file without the classifier
        raise BadInput(
            f"{path} does not hold the weights of {name} ({first_words(first)}); "
            "give a safetensors or torch file of exactly that model"
        ) from first


def check_file(path: Path) -> None:
    """Raises BadInput where there is no such file."""
    if not path.is_file():
        raise BadInput(f"no file {path.absolute()}")


def first_words(error: Exception) -> str:
    """The error's kind and message in one line of a readable length."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= 300 else f"{words[:300]} ..."


def _has_blocks(layer: Any) -> bool:
    return len(getattr(layer, "blocks", ())) > 0


def _load(name: str, kwargs: dict[str, Any], settings: dict[str, Any], path: Path) -> Any:
    """Through timm's own converters, which also resample position embeddings. Torch files: tensors only, no code."""
    if "num_classes" in kwargs:  # timm loads strictly only when model and file agree on the classes
        settings = {**settings, "num_classes": kwargs["num_classes"]}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={**settings, "file": str(path)}, **kwargs)


def _look_for_hub(name: str) -> None:
    """Ask the hub once, without the retries of its client, unless the weights are on this machine already.

    Raises BadInput when it does not answer.
    """
    repository = get_pretrained_cfg(name).hf_hub_id
    if repository is None or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in HUB_FILES):
        return
    try:
        url = huggingface_hub.hf_hub_url(repository, HUB_FILES[0])
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
    except huggingface_hub.errors.HfHubHTTPError:
        return  # it is there; what it objects to, timm's own fetch will find or say
    except Exception as error:  # no route, no name, no answer: each of its clients has kinds of its own
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> BadInput:
    return BadInput(
        f"cannot fetch timm:{name} ({first_words(error)}); without network, run `fd-scale fetch-teacher timm:{name} OUT` "
        f"where there is one and write file:OUT, or bring its file from huggingface.co/timm/{name} and write "
        f"timm:{name}@PATH"
    )


def tags(name: str) -> dict[str, Any]:
    """The published sets of weights of an architecture: tag -> timm's facts of it."""
    return dict(get_arch_pretrained_cfgs(name.split(".")[0]))


def published(name: str) -> bool:
    """Whether timm publishes weights under exactly that name."""
    return bool(get_pretrained_cfg(name).has_weights)


def licence_of(name: str) -> str:
    return get_pretrained_cfg(name).license or "not stated by timm"


def leave_features_only(model: Any) -> None:
    """Takes the classifier and the attention pooling away (SigLIP's: a tenth of a base model that no token needs)."""
    model.reset_classifier(0)
    if isinstance(getattr(model, "attn_pool", None), nn.Module):
        model.attn_pool = None


def as_tokens(features: Tensor, *, channels_last: bool) -> Tensor:
    """What `forward_features` gives, (B, L, C) or a map -> (B, L, C), the map by rows."""
    if features.ndim != 4:
        return features
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def last_norm(model: nn.Module) -> nn.Module | None:
    """The final norm where timm applies it only behind the pooling: `fc_norm` of ViTs, the head's of conv nets."""
    for norm in (getattr(model, "fc_norm", None), getattr(getattr(model, "head", None), "norm", None)):
        if norm is not None and not isinstance(norm, nn.Identity):
            return norm
    return None
