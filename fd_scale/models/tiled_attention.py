"""Attention on a CPU that keeps no matrix of weights: not for the backward pass, and not in memory.

Forward is torch's fused kernel for CPUs; the gradient is ours, because that kernel has none for the bias. It goes over a
few windows of one head at a time, so that their matrices stay in the core's cache, and makes each again from the
logarithm of its softmax's sum. Source of the recomputation: arXiv 2205.14135, section 3.1.

As operators of torch's library, so that `torch.compile` sees one node and no loop.

Letters: W windows, N tokens of a window, d channels of a head.
"""

import torch
from torch import Tensor

TILE = 300_000
"""Numbers of a tile's matrix: 1.2 MB, about what a core keeps close. 4 to 16 windows of 14x14 were alike."""

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """softmax(query keyᵀ + bias) value, for (W, heads, N, d) and a bias (heads, N, N), all of one type."""
    return _forward(query, key, value, bias)[0]


@torch.library.custom_op("fd_scale::tiled_attention", mutates_args=(), device_types="cpu")
def _forward(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The output (W, heads, N, d), and the logarithm of each row's sum of exponentials (W, heads, N)."""
    return _fused(query, key, value, attn_mask=bias[None], scale=1.0)


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return _fused(query, key, value, attn_mask=bias[None], scale=1.0)


@torch.library.custom_op("fd_scale::tiled_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, output: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    windows, heads, tokens, _ = query.shape
    of_query, of_key, of_value = (torch.empty_like(tensor) for tensor in (query, key, value))
    of_bias = torch.zeros_like(bias)
    # The gradient of a softmax takes this off each row.
    expected = (gradient * output).sum(-1, keepdim=True)  # (W, heads, N, 1)
    step = min(windows, max(1, TILE // tokens**2))
    weights, of_logits = (query.new_empty(step, tokens, tokens) for _ in range(2))
    for head in range(heads):
        for first in range(0, windows, step):
            own = slice(first, first + step), head
            q, k, v, do = query[own], key[own], value[own], gradient[own]  # (step, N, d)
            p, ds = weights[: len(q)], of_logits[: len(q)]  # (step, N, N); the last tile may be shorter
            torch.baddbmm(bias[head].expand_as(p), q, k.transpose(1, 2), out=p)
            p.sub_(log_sum[own][..., None]).exp_()
            of_value[own] = torch.bmm(p.transpose(1, 2), do)
            torch.bmm(do, v.transpose(1, 2), out=ds)
            ds.sub_(expected[own]).mul_(p)
            of_query[own] = torch.bmm(ds, k)
            of_key[own] = torch.bmm(ds.transpose(1, 2), q)
            of_bias[head] += ds.sum(0)
    return of_query, of_key, of_value, of_bias


@_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, output: Tensor, log_sum: Tensor
) -> tuple[Tensor, ...]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), torch.empty_like(bias)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradient(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return _backward(gradient, *ctx.saved_tensors)


_forward.register_autograd(_gradient, setup_context=_save)
