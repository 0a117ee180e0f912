"""The windows that the position bias of a SwinV2 was trained with.

They are no tensors of the model, but without them the same weights mean another bias in another window: offsets are
scaled by the trained window (`fd_scale.models.attention.relative_coordinates`). Published files tell them by a buffer.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.attention import relative_coordinates
from fd_scale.models.swin_v2 import SIZES, SwinV2
from fd_scale.models.weights.parts import Windows

TOLERANCE = 0.02
"""Of coordinates up to 2, for tables that were saved in half precision."""


def trained_windows(origin: Mapping[str, Any]) -> Windows:
    """Read the window of each stage of an exported SwinV2.

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


def windows_of_tables(tensors: Mapping[str, Tensor]) -> Windows | None:
    """Read the windows from the buffers `relative_coords_table`, whose values tell them; None without such buffers.

    Args:
        tensors: by names without prefixes; others are ignored.

    Raises:
        BadInput: the tables are not those of SwinV2, or the blocks of a stage disagree.
    """
    windows: dict[int, set[int]] = {}
    for name, table in tensors.items():
        match = re.fullmatch(r"layers\.(\d+)\.(.*\.)?relative_coords_table", name)
        if match:
            windows.setdefault(int(match[1]), set()).add(_window_of_table(name, table))
    for stage, found in windows.items():
        if len(found) > 1:
            raise BadInput(f"the blocks of layers.{stage} were trained with different windows: {sorted(found)}")
    return tuple(windows[stage].pop() for stage in sorted(windows)) if windows else None


def _window_of_table(name: str, table: Tensor) -> int:
    """(1, 2w-1, 2w-1, 2) coordinates in a window of w, scaled by another one p perhaps -> p."""
    window = (table.shape[1] + 1) // 2 if table.dim() == 4 else 0
    if window < 1 or tuple(table.shape) != (1, 2 * window - 1, 2 * window - 1, 2):
        raise BadInput(f"{name} has the shape {tuple(table.shape)}, which is no table of coordinates of SwinV2")
    if window == 1:
        return 1
    # The last coordinate is log2(1 + 8 (w-1) / (p-1)) / 3.
    furthest = 2 ** (3 * table.double().max().item()) - 1
    trained = round(8 * (window - 1) / furthest) + 1 if math.isfinite(furthest) and furthest > 0 else 0
    expected = relative_coordinates((window, window), max(trained, 1), torch.device("cpu"))
    if trained < 2 or (table.float().flatten(0, 2) - expected).abs().max() > TOLERANCE:
        raise BadInput(f"{name} is not spaced by the logarithm, as SwinV2's are: another kind of position bias")
    return trained


def windows_in_use(model: SwinV2, image_size: int) -> Windows:
    """List the window of each stage at square images of that size, as in a model that was told no others."""
    maps = [math.ceil(image_size / stride) for stride in model.strides]
    return tuple(min(side, blocks[0].window) for side, blocks in zip(maps, model.blocks_of_stages(), strict=True))


def check_windows(model: SwinV2, trained: Windows | None, image_size: int | None) -> None:
    """Refuse weights unless it is certain which windows scale the position bias.

    Those are the windows of the file, `trained`, if they are those that the model was told; or, with an `image_size`,
    those in use.

    Raises:
        BadInput: it is not certain.
    """
    told = model.told_windows
    if trained is not None and len(trained) != len(model.depths):
        raise BadInput(f"they tell the windows {list(trained)} for a student of {len(model.depths)} stages")
    if told is None and trained is None:
        raise BadInput(
            "they do not say in which windows the position bias was trained; set the student's pretrained_window, one "
            "for each stage, for example [8, 8, 8, 8] for the published models of 256 px and window 8"
        )
    if told is not None and trained is not None and told != trained:
        raise BadInput(
            f"their position bias was trained in the windows {list(trained)}, but the student's pretrained_window is "
            f"{list(told)}; give the former"
        )
    if told is None and image_size is not None and trained != (used := windows_in_use(model, image_size)):
        raise BadInput(
            f"their position bias was trained in the windows {list(trained or ())}, and at {image_size} px the student "
            f"has {list(used)}; set the student's pretrained_window: {list(trained or ())}"
        )


def tell_windows(model: SwinV2, windows: Windows) -> None:
    """Scale the position biases of every block as in these windows."""
    for blocks, window in zip(model.blocks_of_stages(), windows, strict=True):
        for block in blocks:
            block.attn.pretrained_window = window


def window_in_tables(bare: Mapping[str, Tensor]) -> int | None:
    """Read the window in use in the first stage from its table of coordinates."""
    tables = [table for name, table in bare.items() if re.fullmatch(r"layers\.0\..*relative_coords_table", name)]
    return (tables[0].shape[1] + 1) // 2 if tables else None


def image_size_of_mask(bare: Mapping[str, Tensor], window: int | None, patch_size: int) -> int | None:
    """Compute the image size from the mask of the first stage's shifted windows (m, N, N), where there are some."""
    mask = bare.get("layers.0.blocks.1.attn_mask")
    return math.isqrt(len(mask)) * window * patch_size if mask is not None and window else None
