"""Attention of the students: softmax with an additive bias, over all tokens or in (shifted) windows.

plain    softmax attention that keeps its matrix, and helpers    paths      which way serves where, chunks of windows
tiled    for CPUs, keeps no matrix                               flex       through FlexAttention
layout   how a map is cut into windows; imported by its name     windows    the module: cosine, position bias
"""

from fd_scale.models.attention.paths import CHOICES, choose_path
from fd_scale.models.attention.plain import attend, join_heads, relative_index, split_heads, widened
from fd_scale.models.attention.windows import (
    POSITION_HIDDEN,
    SharedPositionBias,
    WindowAttention,
    relative_coordinates,
)

__all__ = [
    "CHOICES",
    "POSITION_HIDDEN",
    "SharedPositionBias",
    "WindowAttention",
    "attend",
    "choose_path",
    "join_heads",
    "relative_coordinates",
    "relative_index",
    "split_heads",
    "widened",
]
