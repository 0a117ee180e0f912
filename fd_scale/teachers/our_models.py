"""Teachers that timm has no name for: EsViT's Swin, and this library's own backbones with published weights.

EsViT (arXiv 2106.09785, github.com/microsoft/esvit, MIT) is timm's Swin but for two things that names and shapes do not
show: its norms have eps 1e-6, timm's 1e-5; and its windows of 14. Its checkpoints hold student, teacher, both heads and
the optimizer; the teacher's backbone is what counts.
"""

import difflib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models import families, from_timm
from fd_scale.models.config import StudentConfig
from fd_scale.models.from_timm import first_words
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.weights.reading import WeightsFile, read_file
from fd_scale.models.weights.timm_loading import load_tensors
from fd_scale.models.zoo import build_student, student_of_origin
from fd_scale.pixels import PIXELS
from fd_scale.teachers.teacher import Facts

Windows = tuple[int, int, int, int]

ESVIT_EPS = 1e-6
ESVIT_SIZE = 224
ESVIT = {
    f"esvit_swin_{size}_window{window}": (f"swin_{size}_patch4_window7_224", window)
    for size in ("tiny", "small", "base")
    for window in (7, 14)
}
"""Name -> timm's architecture, window."""


def names() -> list[str]:
    return [*ESVIT, *families.names()]


def facts(name: str, pixels: str | None, description: str) -> Facts:
    """Find the pixel statistics and the licence of a name's weights.

    Raises:
        BadInput: for an unknown name, and for a ViT whose statistics nobody can know.
    """
    check_name(name)
    pixels = pixels or usual_pixels(name)
    if pixels is None:
        raise BadInput(
            f"{name} may have been trained with the pixel statistics of ImageNet or of CLIP; set teacher.pixels to "
            f"one of {', '.join(PIXELS)}"
        )
    mean, std = PIXELS[pixels]
    return Facts(mean, std, "MIT" if name in ESVIT else "not stated", description)


def usual_pixels(name: str) -> str | None:
    """Pixel statistics of all published weights of a name, a key of PIXELS; None where they differ."""
    return "imagenet" if name in ESVIT else families.family_of(name).pixels


def check_name(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3, cutoff=0.4) or names()
        raise BadInput(f"no teacher of our own is called {name!r}; near: {', '.join(near)}; timm's are timm:NAME")


def build(
    name: str, path: Path, image_size: int, windows: Windows | None = None, key: str | None = None
) -> tuple[Any, str]:
    """Build a model with the weights of a file.

    Returns it, and `WeightsFile.where` they were in the file.

    Args:
        windows: in which the position bias was trained, of a family with windows, where the file does not say.
        key: see `read_file`.

    Raises:
        BadInput: a size or weights that do not fit.
    """
    if name in ESVIT:
        from_timm.check_divisible(name, image_size, from_timm.stride_of(outline(name, native_size(name))))
    file = read_file(path, key)
    if name in ESVIT:
        return _esvit(name, file, image_size), file.where
    first: BadInput | None = None
    for position_bias in families.family_of(name).position_biases:  # the file holds one, and fits no other
        config = StudentConfig(name, drop_path=0.0, position_bias=position_bias, pretrained_window=windows)
        model = build_student(config, image_size)
        try:
            load_weights(model, file, whole=True)
        except BadInput as error:
            first = first or error
        else:
            return model, file.where
    assert first is not None
    raise first


def exported(origin: dict[str, Any], path: Path, image_size: int) -> Any:
    """Open a student that `fd-scale export` wrote, at any size."""
    model = build_student(replace(student_of_origin(origin, path)[0], drop_path=0.0), image_size)
    load_weights(model, path, whole=True)
    return model


def native_size(name: str) -> int:
    """Size of the images that a model of that name is built for where no job says otherwise."""
    return ESVIT_SIZE if name in ESVIT else families.family_of(name).native_size


def outline(name: str, image_size: int) -> Any:
    """Build the model without weights."""
    if name in ESVIT:
        architecture, arguments = _esvit_arguments(name, image_size)
        return from_timm.outline(architecture, arguments)
    return build_student(StudentConfig(name, drop_path=0.0), image_size)


def _esvit(name: str, file: WeightsFile, image_size: int) -> Any:
    architecture, arguments = _esvit_arguments(name, image_size)
    try:
        return load_tensors(architecture, arguments, {}, file.tensors)
    except Exception as error:  # torch and timm's converter raise their own kinds
        raise BadInput(
            f"{file.source} does not hold the weights of {name} ({first_words(error)}); give EsViT's checkpoint of "
            f"that model"
        ) from error


def _esvit_arguments(name: str, image_size: int) -> tuple[str, dict[str, Any]]:
    architecture, window = ESVIT[name]
    norm = partial(nn.LayerNorm, eps=ESVIT_EPS)
    return architecture, {"window_size": window, "norm_layer": norm, "img_size": image_size}
