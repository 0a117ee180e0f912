"""Windows through FlexAttention: one kernel for all kinds of window, the bias looked up in its table.

For CUDA. On a CPU torch has no gradient for it, and without a compiler it makes the matrix after all: good for a test.

Letters: W windows of a batch, K kinds, N tokens of a window, d channels of a head.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from fd_scale.errors import BadInput
from fd_scale.models.attention.layout import PADDED, WindowLayout


@cache
def _compiled() -> Any:
    """Not at import: loading the compiler takes a second, and most processes never attend this way."""
    return torch.compile(flex_attention, dynamic=False)


def flex_windows(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, layout: WindowLayout, across_regions: float
) -> Tensor:
    """Attend in windows: softmax(query keyᵀ + bias + mask) value.

    Queries, keys and values are (W, heads, N, d) each and fp32; `table` (heads, 2h-1, 2w-1) holds the bias.

    Raises:
        BadInput: gradients are asked for on a CPU.
    """
    on_cpu = query.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and query.requires_grad:
        raise BadInput("attention 'flex' has no gradient on a CPU; use 'auto', 'tiled' or 'sdpa'")
    height, width = layout.window
    regions = layout.regions
    kinds = torch.cat([torch.full((count,), kind, device=query.device) for kind, count in enumerate(layout.counts)])

    def biased(score: Tensor, window: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + table[head, i // width - j // width + height - 1, i % width - j % width + width - 1]

    def masked(score: Tensor, window: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert regions is not None
        mine, other = regions[kinds[window], i], regions[kinds[window], j]
        score = biased(score, window, head, i, j) + torch.where(mine == other, 0.0, across_regions)
        return torch.where(other == PADDED, -math.inf, score)

    score_mod = biased if regions is None else masked
    run = flex_attention if on_cpu or torch.compiler.is_compiling() else _compiled()
    attended = run(query, key, value, score_mod=score_mod, scale=1.0)
    assert isinstance(attended, Tensor)  # and no logarithms of sums, which were not asked for
    return attended
