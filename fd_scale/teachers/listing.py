"""List of teachers: those of the families named here for which timm publishes weights, and our own names.

Each row comes from a teacher that was really built, on the meta device: only memory for its weights is left out. Tags
of one architecture and image size share what was built.
"""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models import from_timm
from fd_scale.pixels import PIXELS
from fd_scale.progress import Progress, silent
from fd_scale.teachers import our_models
from fd_scale.teachers.teacher import Facts, Teacher, facts_of

FAMILIES = {
    "CLIP": r"vit_\w+_clip_",
    "DINO": r"vit_.*\.dino$",
    "DINOv2": r"vit_.*_dinov2\.",
    "DINOv3": r"vit_.*_dinov3|convnext_\w+\.dinov3",
    "DeiT": r"deit3?_",
    "MAE": r"vit_.*\.mae$",
    "BEiT": r"beit(v2|3)?_",
    "SigLIP": r"(vit|naflexvit)_.*_siglip",
    "EVA": r"eva(02)?_",
    "RADIO": r"(vit|naflexvit)_.*_radio_",
    "Swin": r"swin_(?!s3)",
    "SwinV2": r"swinv2_(?!cr_)",
}
"""Family -> how its names in timm begin."""


@dataclass(frozen=True)
class Row:
    """A teacher at its native image size. `pixels`: imagenet, clip, half, or the mean itself."""

    family: str
    spec: str
    parameters: int
    image_size: int
    stride: int
    prefix_tokens: int
    grid: tuple[int, int]
    width: int
    pixels: str
    licence: str


def names() -> dict[str, str]:
    """Map timm's names with published weights to families; without those that apply the wrong activation."""
    found = {}
    for name in timm.list_models(pretrained=True):
        family = next((family for family, start in FAMILIES.items() if re.match(start, name)), None)
        if family is not None and not _is_refused(name):
            found[name] = family
    return found


def rows(pattern: str = "*", progress: Progress = silent) -> list[Row]:
    """List the teachers whose names match, e.g. `vit_base*`. Raises BadInput when none does."""
    families = names()
    wanted = [name for name in [*families, *our_models.names()] if fnmatch(name, pattern)]
    if not wanted:
        raise BadInput(f"no teacher is called {pattern!r}; families: {', '.join(FAMILIES)}; try '*dinov2*'")
    built: dict[tuple[str, int], tuple[Teacher, int]] = {}
    found = []
    for name in progress(wanted, len(wanted), "building"):
        if name not in families:
            found.append(_row_of_ours(name))
            continue
        published = get_pretrained_cfg(name)
        key = name.split(".")[0], published.input_size[-1]
        if key not in built:
            built[key] = _outlined(name)
        teacher, parameters = built[key]
        size = key[1] // teacher.stride * teacher.stride
        facts = Facts(published.mean, published.std, from_timm.licence_of(name), name)
        found.append(_row(families[name], f"timm:{name}", teacher, parameters, size, facts))
    return found


def _outlined(name: str) -> tuple[Teacher, int]:
    """With its number of parameters. Its pass takes one block of many: they all keep the layout of the tokens."""
    model = from_timm.outline(name, {})
    native, stride = from_timm.native_size(model), from_timm.stride_of(model)
    size = native // stride * stride  # two of SigLIP's were trained at 384 px with patches of 14
    if size != native:
        model = from_timm.outline(name, from_timm.size_arguments(model, size))
    from_timm.leave_features_only(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(getattr(model, "blocks", None), nn.Sequential | nn.ModuleList):
        model.blocks = model.blocks[:1]
    return Teacher(model, size, facts_of(model, "", name)), parameters


def table(found: list[Row]) -> str:
    """Format the teachers as text, one line each."""
    head = ("family", "spec", "params", "size", "patch", "grid", "prefix", "width", "pixels", "licence")
    lines = [
        (
            row.family,
            row.spec,
            f"{row.parameters / 1e6:,.0f} M" if row.parameters >= 1e6 else f"{row.parameters:,}",
            str(row.image_size),
            str(row.stride),
            "x".join(map(str, row.grid)),
            str(row.prefix_tokens),
            str(row.width),
            row.pixels,
            row.licence,
        )
        for row in found
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    )


def _is_refused(name: str) -> bool:
    try:
        from_timm.check_name(name)
    except BadInput:
        return True
    return False


def _row_of_ours(name: str) -> Row:
    size = our_models.native_size(name)
    with torch.device("meta"):
        model = our_models.outline(name, size)
    facts = our_models.facts(name, "imagenet", name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    family = "EsViT" if name in our_models.ESVIT else "own"
    row = _row(family, f"fd_scale:{name}@PATH", Teacher(model, size, facts), parameters, size, facts)
    return row if our_models.usual_pixels(name) else replace(row, pixels="teacher.pixels")


def _row(family: str, spec: str, teacher: Teacher, parameters: int, size: int, facts: Facts) -> Row:
    known = {statistics: name for name, statistics in PIXELS.items()}
    return Row(
        family=family,
        spec=spec,
        parameters=parameters,
        image_size=size,
        stride=teacher.stride,
        prefix_tokens=teacher.num_prefix_tokens,
        grid=teacher.grid(size, size),
        width=teacher.width,
        pixels=known.get((facts.mean, facts.std), f"{facts.mean}/{facts.std}"),
        licence=facts.licence,
    )
