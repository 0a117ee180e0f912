"""How many bytes a block of SwinV2 keeps for its backward pass: a pure function, held to what autograd really keeps.

Counted are the tensors that autograd saves, without parameters; not what a backward pass allocates for itself. `sdpa`
is counted as on CUDA, whose kernels keep no matrix, and `flex` like it: neither has been held to a measurement.

Letters: W windows of a batch, C channels, N tokens of a window, T offsets between two of them.
"""

from dataclasses import dataclass

from fd_scale.models.attention_paths import AttentionChoice, choose_path
from fd_scale.models.window import POSITION_HIDDEN
from fd_scale.models.window_layout import Size, axis_kinds, fitted_shift, fitted_window

WIDE = 4
"""Bytes of a number in the attention, at least."""


@dataclass(frozen=True)
class BlockShape:
    """size of the map; own_bias: not shared by the stage; chunk: windows at a time, 0 for all."""

    batch: int
    size: Size
    channels: int
    heads: int
    window: int
    shifted: bool
    own_bias: bool
    extra_norm: bool
    chunk: int = 0


def block_bytes(block: BlockShape, choice: AttentionChoice, device_type: str, element_size: int) -> int:
    """What one block keeps, for tokens of `element_size` bytes a number."""
    window = fitted_window(block.size, block.window)
    shift = fitted_shift(block.size, block.window) if block.shifted else (0, 0)
    axes = [axis_kinds(*axis) for axis in zip(block.size, window, shift, strict=True)]
    kinds = len(axes[0]) * len(axes[1])
    windows = block.batch * sum(map(len, axes[0])) * sum(map(len, axes[1]))
    in_window = window[0] * window[1]
    path = choose_path(choice, device_type, in_window)
    narrow = element_size < WIDE
    wide = max(element_size, WIDE)

    real = block.batch * block.size[0] * block.size[1] * block.channels
    total = real * (11 + block.extra_norm) * element_size  # inputs of the norms and of the MLP, and 4C twice in it
    padded = windows * in_window * block.channels
    total += padded * 5 * element_size  # windows, their query, key and value, and the input of the last projection
    total += padded * (4 if narrow else 2) * wide  # query and key of their new length, and before it as fp32
    lengths = windows * in_window * block.heads * wide
    total += 6 * lengths
    matrix = block.heads * in_window**2
    if path == "reference":
        total += padded * element_size  # a copy of the value
        total += windows * matrix * (wide + (element_size if narrow else 0)) if not block.chunk else 0
    else:
        total += padded * (2 if narrow else 1 if kinds > 1 else 0) * wide  # value as fp32, output before it is joined
        total += lengths  # the logarithms of the softmax's sums
    if path in ("tiled", "sdpa"):
        total += kinds * matrix * wide  # position bias with the mask of each kind
    if block.own_bias:
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        total += offsets * (POSITION_HIDDEN * element_size + block.heads * wide)
    return total
