"""Softmax attention with an additive bias: the plain path, which keeps the matrix of weights, and helpers.

Other ways to the same numbers: `paths`.
"""

import torch
from torch import Tensor

SHORTEST = 1e-12
"""Vectors are not brought to a length from below it, as in torch's `normalize`."""


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend: softmax(query keyᵀ + bias) value, for (..., N, d) and a bias that broadcasts to (..., N, N).

    Logits and softmax are at least fp32, whatever the type of the inputs or an autocast around: cosine logits reach
    116, where bf16 steps by 0.5. Returns the type of `value`.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits = widened(query) @ widened(key).transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        return logits.softmax(dim=-1).to(value.dtype) @ value


def widened(tensor: Tensor) -> Tensor:
    """Convert bf16 and fp16 to fp32; fp32 and fp64 stay as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def lengthened(vectors: Tensor, length: Tensor | float) -> tuple[Tensor, Tensor]:
    """Scale vectors (..., d) to a length, at least in fp32. Returns them and the factor (..., 1).

    The two parts of the factor meet before they meet the vectors: one pass over these less.
    """
    vectors = widened(vectors)
    factor = length / vectors.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)
    return vectors * factor, factor


def relative_index(window: tuple[int, int], device: torch.device) -> Tensor:
    """Index (N, N) of the row that query i finds for key j in a table of position biases.

    The table has all (2h-1)(2w-1) offsets, row by row.
    """
    height, width = window
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    row_offset = rows[:, None] - rows + height - 1  # (h, h), 0 .. 2h-2
    column_offset = columns[:, None] - columns + width - 1  # (w, w), 0 .. 2w-2
    index = row_offset[:, None, :, None] * (2 * width - 1) + column_offset[None, :, None, :]  # (h, w, h, w)
    return index.reshape(height * width, height * width)


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """Split channels into heads. (..., N, C) -> (..., heads, N, C / heads)."""
    return tensor.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(tensor: Tensor) -> Tensor:
    """Join heads to channels. (..., heads, N, d) -> (..., N, heads * d)."""
    return tensor.transpose(-3, -2).flatten(-2)
