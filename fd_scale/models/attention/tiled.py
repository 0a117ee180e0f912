"""Cosine attention on a CPU that keeps no matrix of weights: not for the backward pass, and not in memory.

Forward is torch's fused kernel for CPUs; the gradient is ours, because that kernel has none for the bias. It goes over
a few windows of one head at a time, so that their matrices stay in the core's cache, and makes each again from the
logarithm of its softmax's sum (arXiv 2205.14135, section 3.1). Queries and keys are brought to length there as well:
kept are the projections, the output, and three numbers for each row of a matrix.

As operators of torch's library, so that `torch.compile` sees one node and no loop.

Letters: W windows, K kinds of window, N tokens of a window, C = heads * d channels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fd_scale.models.attention.plain import lengthened, split_heads, widened

TILE = 300_000
"""Numbers of a tile's matrix: 1.2 MB, about what a core keeps close. 4 to 16 windows of 14x14 were alike."""

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def tiled_attention(projections: Tensor, scale: Tensor, biases: Tensor, counts: Sequence[int]) -> Tensor:
    """Attend inside windows, tile by tile: softmax(scale cos(query, key) + bias) value.

    Args:
        projections: (W, N, 3C) queries, keys and values.
        scale: (heads, 1, 1), at least fp32; so the logits are.
        biases: (K, heads, N, N), of the type of `scale`.
        counts: windows of each kind.

    Returns:
        (W, N, C), of the type of the projections.
    """
    return _forward(projections, scale, biases, counts)[0]


@torch.library.custom_op("fd_scale::tiled_attention", mutates_args=(), device_types="cpu")
def _forward(
    projections: Tensor, scale: Tensor, biases: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output (W, N, C), and of each row (W, heads, N, 1): the logarithm of its sum of exponentials, and the factors
    of query and key.
    """
    kinds = []
    for of_kind, bias in zip(projections.split(counts), biases, strict=True):
        query, key, value = (split_heads(part, len(scale)) for part in of_kind.chunk(3, dim=-1))  # (W, heads, N, d)
        query, of_query = lengthened(query, scale)
        key, of_key = lengthened(key, 1.0)
        output, log_sum = _fused(query, key, widened(value), attn_mask=bias[None], scale=1.0)
        output = output.transpose(1, 2).flatten(2).to(projections.dtype)
        kinds.append((output, log_sum[..., None], of_query, of_key))
    joined = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*kinds, strict=True))
    output, log_sum, of_query, of_key = (tensor.contiguous() for tensor in joined)
    return output, log_sum, of_query, of_key


@_forward.register_fake
def _(projections: Tensor, scale: Tensor, biases: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    windows, tokens, width = projections.shape
    rows = (scale.new_empty(windows, len(scale), tokens, 1) for _ in range(3))
    return projections.new_empty(windows, tokens, width // 3), *rows


@torch.library.custom_op("fd_scale::tiled_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor,
    projections: Tensor,
    scale: Tensor,
    biases: Tensor,
    output: Tensor,
    log_sum: Tensor,
    factor_of_query: Tensor,
    factor_of_key: Tensor,
    counts: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    heads, tokens = len(scale), projections.shape[1]
    query, key, value = (split_heads(part, heads) for part in projections.chunk(3, dim=-1))  # (W, heads, N, d)
    of_projections = torch.empty_like(projections)
    of_query, of_key, of_value = (split_heads(part, heads) for part in of_projections.chunk(3, dim=-1))
    of_scale, of_biases = torch.zeros_like(scale), torch.zeros_like(biases)
    gradient, output = split_heads(gradient, heads), split_heads(output, heads)
    step = max(1, TILE // tokens**2)
    weights, of_logits = (scale.new_empty(min(step, len(projections)), tokens, tokens) for _ in range(2))
    for kind, head, tile in _tiles(counts, heads, step):
        q_factor, k_factor = factor_of_query[tile, head], factor_of_key[tile, head]
        q, k = query[tile, head] * q_factor, key[tile, head] * k_factor  # (step, N, d)
        v, o, do = (widened(tensor[tile, head]) for tensor in (value, output, gradient))
        p, ds = weights[: len(q)], of_logits[: len(q)]  # (step, N, N); the last tile may be shorter
        torch.baddbmm(biases[kind, head].expand_as(p), q, k.transpose(1, 2), out=p)
        p.sub_(log_sum[tile, head]).exp_()
        of_value[tile, head] = torch.bmm(p.transpose(1, 2), do)
        torch.bmm(do, v.transpose(1, 2), out=ds)
        ds.sub_((do * o).sum(-1, keepdim=True)).mul_(p)
        of_biases[kind, head] += ds.sum(0)
        # Along the vector itself its length takes the gradient away; for the query that part is the scale's.
        dq, dk = torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q)
        along_q, along_k = (dq * q).sum(-1, keepdim=True), (dk * k).sum(-1, keepdim=True)
        of_query[tile, head] = dq.addcmul_(q, along_q / scale[head] ** 2, value=-1).mul_(q_factor)
        of_key[tile, head] = dk.addcmul_(k, along_k, value=-1).mul_(k_factor)
        of_scale[head] += along_q.sum() / scale[head]
    return of_projections, of_scale, of_biases


def _tiles(counts: Sequence[int], heads: int, step: int) -> Iterator[tuple[int, int, slice]]:
    """(kind, head, windows of that kind)."""
    begin = 0
    for kind, count in enumerate(counts):
        for head in range(heads):
            for first in range(begin, begin + count, step):
                yield kind, head, slice(first, min(first + step, begin + count))
        begin += count


@_backward.register_fake
def _(
    gradient: Tensor,
    projections: Tensor,
    scale: Tensor,
    biases: Tensor,
    output: Tensor,
    log_sum: Tensor,
    factor_of_query: Tensor,
    factor_of_key: Tensor,
    counts: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(projections), torch.empty_like(scale), torch.empty_like(biases)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.counts = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradient(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(gradient, *ctx.saved_tensors, ctx.counts), None


_forward.register_autograd(_gradient, setup_context=_save)
