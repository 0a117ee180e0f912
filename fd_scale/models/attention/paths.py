"""The ways in which windows attend, which of them serves where, and attention to a few windows at a time.

reference   the plain products and the softmax; keeps the matrix of weights for the backward pass
sdpa        `scaled_dot_product_attention`, which picks a kernel; the scale is part of the query
flex        FlexAttention: the bias is looked up in its table, and neither it nor the weights are ever a matrix
tiled       for CPUs: keeps no matrix, and makes it again for a few windows at a time

The bias and its mask are one tensor for each kind of window: shifted windows are of four kinds (`layout`), so
four tensors serve all of them. `flex` needs none.

On CUDA none of them has run yet: `pytest -m gpu` holds them to the CPU's reference path.

Letters: W windows of a batch, K kinds, N tokens of a window, d channels of a head.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fd_scale.errors import BadInput
from fd_scale.models.attention.flex import flex_windows
from fd_scale.models.attention.layout import PADDED, WindowLayout
from fd_scale.models.attention.plain import attend, join_heads, lengthened, split_heads, widened
from fd_scale.models.attention.tiled import tiled_attention
from fd_scale.models.config import AttentionChoice

AttentionPath = Literal["reference", "sdpa", "flex", "tiled"]
CHOICES: tuple[str, ...] = get_args(AttentionChoice)

ACROSS_REGIONS = -100.0
TILED_FROM = 100
"""Tokens of a window. At 8x8 and below the plain path was as fast or faster, and its matrices are small."""


def choose_path(choice: AttentionChoice, device_type: str, tokens: int) -> AttentionPath:
    """Choose how windows attend. `flex` is never chosen: where it wins has not been measured."""
    if choice == "auto":
        if device_type == "cpu":
            return "tiled" if tokens >= TILED_FROM else "reference"
        return "sdpa"
    if choice == "tiled" and device_type != "cpu":
        raise BadInput(f"attention 'tiled' runs on a CPU, and the model is on {device_type}; use 'auto' or 'sdpa'")
    return choice


def region_mask(regions: Tensor) -> Tensor:
    """Make the mask (K, N, N) to add to the logits from regions (K, N).

    Every row is finite somewhere: no window is padding alone.

    Between the regions that a shift brings together the published -100 is kept, not infinity: it is weak against logits
    that differ by as much, which trained scales allow.
    """
    mask = torch.zeros(*regions.shape, regions.shape[1], device=regions.device)
    mask = mask.masked_fill(regions[:, :, None] != regions[:, None, :], ACROSS_REGIONS)
    return mask.masked_fill((regions == PADDED)[:, None, :], -math.inf)


def attend_in_windows(
    path: AttentionPath, projections: Tensor, scale: Tensor, bias: Tensor, layout: WindowLayout, chunk: int = 0
) -> Tensor:
    """Attend inside windows: softmax(scale cos(query, key) + bias + mask) value.

    Args:
        projections: (W, N, 3C) queries, keys and values.
        scale: (heads, 1, 1), at least fp32; logits and softmax are as wide.
        bias: (heads, N, N), or for `flex` the table (heads, 2h-1, 2w-1) that it is looked up in.
        chunk: windows at a time, each chunk computed again in the backward pass; 0: all at once. `tiled` and `flex`
            need no such thing.

    Returns:
        (W, N, C), of the type of the projections.
    """
    with torch.autocast(projections.device.type, enabled=False):
        if path == "tiled":
            return tiled_attention(projections, scale, _of_kinds(bias, layout), layout.counts)
        query, key, value = (split_heads(part, len(scale)) for part in projections.chunk(3, dim=-1))
        query, key = lengthened(query, scale)[0], lengthened(key, 1.0)[0]  # (W, heads, N, d)
        if path == "flex":
            attended = flex_windows(query, key, widened(value), bias, layout, ACROSS_REGIONS)
            return join_heads(attended).to(projections.dtype)
        one_kind = attend if path == "reference" else _sdpa
        # Split and not slices: the gradient is then one copy instead of a sum of K tensors full of zeros.
        kinds = zip(*(part.split(layout.counts) for part in (query, key, value)), _of_kinds(bias, layout), strict=True)
        return torch.cat([join_heads(_in_chunks(one_kind, chunk, q, k, v, b)) for q, k, v, b in kinds])


def _of_kinds(bias: Tensor, layout: WindowLayout) -> Tensor:
    """(heads, N, N) -> (K, heads, N, N), the mask of each kind of window added."""
    return bias[None] if layout.regions is None else bias + region_mask(layout.regions)[:, None]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    attended = functional.scaled_dot_product_attention(query, key, widened(value), attn_mask=bias[None], scale=1.0)
    return attended.to(value.dtype)


def _in_chunks(
    one_kind: Callable[..., Tensor], chunk: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor
) -> Tensor:
    """Sequential attention (arXiv 2111.09883, section 3.4): the matrices of `chunk` windows exist at a time."""
    if not chunk or len(query) <= chunk:
        return one_kind(query, key, value, bias)
    parts = zip(*(tensor.split(chunk) for tensor in (query, key, value)), strict=True)
    return torch.cat(
        [checkpoint(one_kind, *part, bias, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )
