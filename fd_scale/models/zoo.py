"""From a name in a config to a student backbone. Says no to contradictions before anything is built."""

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from fd_scale.errors import BadInput
from fd_scale.fields import Pixels
from fd_scale.models import swin_v2, vit
from fd_scale.models.attention import CHOICES
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import TIMM_PREFIX, StudentConfig
from fd_scale.models.from_timm import TimmStudent

logger = logging.getLogger(__name__)


def student_of_origin(origin: Mapping[str, Any], path: Path) -> tuple[StudentConfig, int]:
    """What an export says of its student, and of the side of its images in pixels.

    Raises:
        BadInput: it says nothing of the kind, or a later version wrote it.
    """
    try:
        stated = dict(origin["student"])
        config = pydantic.TypeAdapter(StudentConfig).validate_python(stated)
        image_size = pydantic.TypeAdapter(Pixels).validate_python(origin["image_size"])
    except (pydantic.ValidationError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} does not say which student it is: {error}; export or convert it again") from None
    unknown = sorted(map(str, stated.keys() - {field.name for field in dataclasses.fields(StudentConfig)}))
    if unknown:
        raise BadInput(f"{path}: this version knows no {unknown[0]!r} of a student; use the one that exported it")
    return config, image_size


SWIN_ONLY = ("window", "pretrained_window", "extra_norm_every", "residual_norm_init", "attention", "window_chunk")


def names() -> list[str]:
    return [*swin_v2.SIZES, *vit.SIZES]


def build_student(config: StudentConfig, image_size: int) -> Backbone:
    """The backbone for square images of `image_size` px, parameters neither initialised nor loaded. Raises BadInput."""
    if not 0 <= config.drop_path < 1:
        raise BadInput(f"student drop_path {config.drop_path} is not in [0, 1); published recipes use 0.1 to 0.4")
    if config.name.startswith(TIMM_PREFIX):
        return _build_timm(config, image_size)
    if config.name not in names():
        near = difflib.get_close_matches(config.name, names(), n=3, cutoff=0.4) or names()
        raise BadInput(f"unknown student {config.name!r}; did you mean {', '.join(near)}? timm's are written timm:NAME")
    return _build_swin(config, image_size) if config.name in swin_v2.SIZES else _build_vit(config, image_size)


def _build_swin(config: StudentConfig, image_size: int) -> Backbone:
    size = swin_v2.SIZES[config.name]
    patch_size = _patch_size(config, size.patch_size, image_size)
    _check_window(config)
    window = size.window if config.window is None else config.window
    extra_norm_every = size.extra_norm_every if config.extra_norm_every is None else config.extra_norm_every
    if extra_norm_every < 0:
        raise BadInput(f"student extra_norm_every {extra_norm_every} is negative; 0 means no extra norm")
    if config.pretrained_window is not None and min(config.pretrained_window) < 1:
        raise BadInput(f"student pretrained_window {config.pretrained_window} has a value below 1; give one per stage")
    if config.attention is not None and config.attention not in CHOICES:
        raise BadInput(f"student attention {config.attention!r} is not one of {', '.join(CHOICES)}")
    if config.window_chunk is not None and config.window_chunk < 1:
        raise BadInput(f"student window_chunk {config.window_chunk} is below 1; leave it out to attend all at once")
    if config.window_chunk is not None and config.attention == "flex":
        raise BadInput("student window_chunk is of no use with attention 'flex', which keeps no matrix: remove it")
    if config.position_bias == "absolute":
        raise BadInput(f"student position_bias 'absolute' is for a ViT; {config.name} takes 'per_block' or 'shared'")
    maps = [-(-image_size // (patch_size * 2**stage)) for stage in range(len(size.depths))]
    windows = [min(side, window) for side in maps]
    logger.info("%s at %d px: maps %s, windows %s", config.name, image_size, maps, windows)
    return swin_v2.SwinV2(
        size.embed_dim,
        size.depths,
        size.heads,
        window=window,
        patch_size=patch_size,
        drop_path=config.drop_path,
        position_bias=config.position_bias or "per_block",
        pretrained_windows=config.pretrained_window,
        extra_norm_every=extra_norm_every,
        residual_norm_init=1e-5 if config.residual_norm_init is None else config.residual_norm_init,
        attention=config.attention or "auto",
        window_chunk=config.window_chunk or 0,
    )


def _build_vit(config: StudentConfig, image_size: int) -> Backbone:
    size = vit.SIZES[config.name]
    for key in SWIN_ONLY:
        if getattr(config, key) is not None:
            raise BadInput(f"student {key} is a key of SwinV2; {config.name} has no use for it: remove it")
    return vit.ViT(
        size.width,
        size.depth,
        size.heads,
        image_size=image_size,
        patch_size=_patch_size(config, size.patch_size, image_size),
        mlp_width=size.mlp_width,
        drop_path=config.drop_path,
        position_bias=config.position_bias or "shared",
    )


def _build_timm(config: StudentConfig, image_size: int) -> Backbone:
    for key in ("patch_size", "position_bias", *SWIN_ONLY):
        if key != "window" and getattr(config, key) is not None:
            raise BadInput(f"student {key} is a key of SwinV2 and ViT; a timm model has its own: remove it")
    _check_window(config)
    trained = config.weights is not None
    name = config.name.removeprefix(TIMM_PREFIX)
    return TimmStudent(name, image_size, drop_path=config.drop_path, trained=trained, window=config.window)


def _check_window(config: StudentConfig) -> None:
    if config.window is not None and config.window < 1:
        raise BadInput(f"student window {config.window} is below 1; leave it out for that of {config.name}")


def _patch_size(config: StudentConfig, default: int, image_size: int) -> int:
    patch_size = default if config.patch_size is None else config.patch_size
    if patch_size < 1:
        raise BadInput(f"student patch_size {patch_size} is below 1; {config.name} has {default} by default")
    if image_size < patch_size or image_size % patch_size:
        lower = max(image_size // patch_size, 1) * patch_size
        raise BadInput(
            f"image size {image_size} is not divisible by the patch size {patch_size} of {config.name}; "
            f"try {lower} or {lower + patch_size}"
        )
    return patch_size
