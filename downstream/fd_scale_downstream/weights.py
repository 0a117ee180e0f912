"""Weights from a file into a backbone, part of which may be missing, with a report of what became of every tensor.

Reads what `fd_scale.models.weights` reads: exports of `fd-scale export`, and safetensors or torch files that are a flat
mapping with our names. Left out: other names (timm moved SwinV2's merging by one stage) and tensors of other shapes.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fd_scale.errors import BadInput
from fd_scale.export import KEY
from fd_scale.models.backbone import Backbone
from fd_scale.models.swin_v2 import SIZES
from fd_scale.models.weights import LoadReport, read_weights, report

# Of published SwinV2, BEiT and timm files: buffers that are recomputed, and heads.
WITHOUT_USE = re.compile(
    r"(.*\.)?(relative_coords_table|relative_position_index|attn_mask|k_bias)|(head|fc_norm|mask_token)(\..*)?"
)
ENOUGH = 0.95
"""Share of a backbone's numbers that a file must hold. Less is another model, not one with a few new norms."""
SHOWN = 8


def export_origin(path: str | Path | None) -> dict[str, Any] | None:
    """What an export says of its origin: the student's configuration, its image size. None for any other file."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise BadInput(f"no weights file at {path}; give its path in the config's `backbone.weights`")
    try:
        with safe_open(path, framework="pt") as file:
            content = (file.metadata() or {}).get(KEY)
    except (OSError, SafetensorError):
        return None
    return None if content is None else json.loads(content)


def trained_windows(origin: dict[str, Any]) -> tuple[int, ...]:
    """The window of each stage whose scale the position bias of an exported SwinV2 has learned.

    It is not the window that was asked for where the map was smaller: at larger images the last stages then grow one.
    """
    student = origin["student"]
    size = SIZES[student["name"]]
    if student.get("pretrained_window"):
        return tuple(student["pretrained_window"])
    patch_size = student.get("patch_size") or size.patch_size
    window = student.get("window") or size.window
    maps = [math.ceil(origin["image_size"] / (patch_size * 2**stage)) for stage in range(len(size.depths))]
    return tuple(min(side, window) for side in maps)


def load(backbone: Backbone, path: str | Path) -> str:
    """Fill the parameters that the file has and leave the others as they are.

    Returns:
        The report, for the log.

    Raises:
        BadInput: a tensor has another shape, or the file holds too little of this backbone.
    """
    tensors = read_weights(path)
    shapes = {name: tuple(parameter.shape) for name, parameter in backbone.named_parameters()}
    outcome = report(shapes, tensors)
    if outcome.mismatched:
        name, (found, wanted) = next(iter(outcome.mismatched.items()))
        raise BadInput(
            f"weights {path}: {len(outcome.mismatched)} tensors have another shape, first {name}: {found} in the file, "
            f"{wanted} in the backbone; give the backbone the file's name, patch_size, position_bias and image_size"
        )
    total = sum(math.prod(shape) for shape in shapes.values())
    filled = sum(math.prod(shapes[name]) for name in outcome.matched)
    if filled < ENOUGH * total:
        raise BadInput(
            f"weights {path} hold {filled / total:.0%} of this backbone, at least {ENOUGH:.0%} are needed; "
            f"missing: {shown(outcome.missing)}; the file's other names: {shown(outcome.unexpected)}"
        )
    with torch.no_grad():
        for name in outcome.matched:
            backbone.get_parameter(name).copy_(tensors[name])
    return f"weights {path}: {described(outcome)}"


def described(outcome: LoadReport) -> str:
    """matched, missing, ignored: every name is in one of them."""
    useless = [name for name in outcome.unexpected if WITHOUT_USE.fullmatch(name)]
    unknown = [name for name in outcome.unexpected if not WITHOUT_USE.fullmatch(name)]
    return (
        f"{len(outcome.matched)} tensors matched; missing, left as initialised: {shown(outcome.missing)}; "
        f"ignored as without use here: {shown(useless)}; ignored as unknown: {shown(unknown)}"
    )


def shown(names: list[str] | tuple[str, ...]) -> str:
    """'none', or the number and the first few."""
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
