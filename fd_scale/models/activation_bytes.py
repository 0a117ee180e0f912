"""Bytes that a block of SwinV2 keeps for its backward pass: a pure function, held to what autograd really keeps.

Counted are the tensors that autograd saves, without parameters; not what a backward pass allocates for itself. `sdpa`
is counted as on CUDA, whose kernels keep no matrix, and `flex` like it: neither has been held to a measurement.

Letters: W windows of a batch, C channels, N tokens of a window, T offsets between two of them.
"""

from dataclasses import dataclass
from itertools import product

from fd_scale.models.attention import POSITION_HIDDEN, choose_path
from fd_scale.models.attention.layout import Size, axis_kinds, fitted_shift, fitted_window
from fd_scale.models.config import AttentionChoice

WIDE = 4
"""Bytes of a number in the attention, at least."""


@dataclass(frozen=True)
class BlockShape:
    """Shape of a block and its input.

    size: of the map.
    bias_per_block: the position bias is not shared by the stage.
    chunk: windows at a time, 0 for all.
    """

    batch: int
    size: Size
    channels: int
    heads: int
    window: int
    shifted: bool
    bias_per_block: bool
    extra_norm: bool
    chunk: int = 0


def block_bytes(block: BlockShape, choice: AttentionChoice, device_type: str, element_size: int) -> int:
    """Compute the bytes that one block keeps, for tokens of `element_size` bytes a number."""
    window = fitted_window(block.size, block.window)
    shift = fitted_shift(block.size, block.window) if block.shifted else (0, 0)
    axes = [axis_kinds(*axis) for axis in zip(block.size, window, shift, strict=True)]
    counts = [block.batch * len(rows) * len(columns) for rows, columns in product(*axes)]  # windows of each kind
    windows = sum(counts)
    in_window = window[0] * window[1]
    path = choose_path(choice, device_type, in_window)
    narrow = element_size < WIDE
    wide = max(element_size, WIDE)

    real = block.batch * block.size[0] * block.size[1] * block.channels
    total = real * (11 + block.extra_norm) * element_size  # inputs of the norms and of the MLP, and 4C twice in it
    padded = windows * in_window * block.channels
    total += padded * 2 * element_size  # windows, and the input of the last projection
    projections = padded * 3 * element_size
    rows = windows * in_window * block.heads * wide
    matrix = block.heads * in_window**2
    biases = len(counts) * matrix * wide  # with the mask of each kind
    if path == "tiled":
        total += projections + 3 * rows + biases
    else:
        total += padded * (4 if narrow else 2) * wide + 6 * rows  # query and key of their new length, and lengths
        total += padded * element_size  # a copy of the value
        if not narrow:
            total += projections  # else what is kept is what they are in fp32
        if path == "reference":
            whole = sum(count for count in counts if not block.chunk or count <= block.chunk)
            total += whole * matrix * (wide + (element_size if narrow else 0))
            total += biases if whole < windows else 0
        else:
            total += padded * wide + rows + biases
    if block.bias_per_block:
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        total += offsets * (POSITION_HIDDEN * element_size + block.heads * wide)
    return total
