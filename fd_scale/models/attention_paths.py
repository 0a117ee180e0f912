"""The ways in which windows attend, which of them serves where, and attention to a few windows at a time.

reference   the plain products and the softmax; keeps the matrix of weights for the backward pass
sdpa        `scaled_dot_product_attention`, which picks a kernel; the scale is part of the query
flex        FlexAttention: the bias is looked up in its table, and neither it nor the weights are ever a matrix
tiled       for CPUs: keeps no matrix, and makes it again for a few windows at a time

All take the bias, with its mask, of one kind of window: shifted windows are of four kinds (`window_layout`), so four
such tensors serve all of them.

Letters: W windows of a batch, K kinds, N tokens of a window, d channels of a head.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fd_scale.errors import BadInput
from fd_scale.models.attention import attend, widened
from fd_scale.models.tiled_attention import tiled_attention
from fd_scale.models.window_layout import PADDED, WindowLayout

AttentionPath = Literal["reference", "sdpa", "flex", "tiled"]
AttentionChoice = Literal["auto", "reference", "sdpa", "flex", "tiled"]

ACROSS_REGIONS = -100.0
TILED_FROM = 100
"""Tokens of a window. Below, matrices are small and the plain path is as fast (`tools/bench_models.py`)."""


def choose_path(choice: AttentionChoice, device_type: str, tokens: int) -> AttentionPath:
    """`flex` is never chosen: where it wins has not been measured."""
    if choice == "auto":
        if device_type == "cpu":
            return "tiled" if tokens >= TILED_FROM else "reference"
        return "sdpa"
    if choice == "tiled" and device_type != "cpu":
        raise BadInput(f"attention 'tiled' runs on a CPU, and the model is on {device_type}; use 'auto' or 'sdpa'")
    return choice


def region_mask(regions: Tensor) -> Tensor:
    """(K, N) -> (K, N, N) to add to the logits. Finite somewhere in every row: no window is padding alone.

    Between the regions that a shift brings together the published -100 is kept, not infinity: it is weak against logits
    that differ by as much, which trained scales allow.
    """
    mask = torch.zeros(*regions.shape, regions.shape[1], device=regions.device)
    mask = mask.masked_fill(regions[:, :, None] != regions[:, None, :], ACROSS_REGIONS)
    return mask.masked_fill((regions == PADDED)[:, None, :], -math.inf)


def attend_in_windows(
    path: AttentionPath, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, layout: WindowLayout, chunk: int = 0
) -> Tensor:
    """softmax(query keyᵀ + bias + mask) value in windows, for (W, heads, N, d).

    Logits and softmax are at least fp32, as in `attention.attend`. Returns the type of `value`.

    Args:
        bias: (heads, N, N), or for `flex` the table (heads, 2h-1, 2w-1) that it is looked up in.
        chunk: windows at a time, each chunk computed again in the backward pass; 0: all at once. `tiled` needs no such
            thing.
    """
    if path == "flex":
        from fd_scale.models.flex_windows import flex_windows

        return flex_windows(query, key, value, bias, layout, ACROSS_REGIONS)
    one_kind = PATHS[path]
    if chunk and path != "tiled":
        one_kind = _in_chunks(one_kind, chunk)
    with torch.autocast(query.device.type, enabled=False):
        if layout.regions is None:
            return one_kind(query, key, value, bias)
        biases = [bias + mask for mask in region_mask(layout.regions)]
        if len(biases) == 1:
            return one_kind(query, key, value, biases[0])
        # Split and not slices: the gradient is then one copy instead of a sum of K tensors full of zeros.
        parts = zip(*(tensor.split(layout.counts) for tensor in (query, key, value)), biases, strict=True)
        return torch.cat([one_kind(*part) for part in parts])


OneKind = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    query, key, wide = widened(query), widened(key), widened(value)
    attended = functional.scaled_dot_product_attention(query, key, wide, attn_mask=bias[None].to(query.dtype), scale=1.0)
    return attended.to(value.dtype)


def _tiled(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    query, key, wide = widened(query), widened(key), widened(value)
    return tiled_attention(query, key, wide, bias.to(query.dtype)).to(value.dtype)


PATHS: dict[str, OneKind] = {"reference": attend, "sdpa": _sdpa, "tiled": _tiled}


def _in_chunks(one_kind: OneKind, chunk: int) -> OneKind:
    """Sequential attention (arXiv 2111.09883, section 3.4): the matrices of `chunk` windows exist at a time."""

    def attend_chunks(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        if len(query) <= chunk:
            return one_kind(query, key, value, bias)
        parts = zip(*(tensor.split(chunk) for tensor in (query, key, value)), strict=True)
        done = [checkpoint(one_kind, *part, bias, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(done)

    return attend_chunks
