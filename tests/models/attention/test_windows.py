"""Windows, shifts and padding against a hand-made dense attention."""

import math

import pytest
import torch
from torch import Tensor

from fd_scale.models import init
from fd_scale.models.attention.layout import fitted_shift, window_layout
from fd_scale.models.attention.plain import relative_index
from fd_scale.models.attention.windows import WindowAttention, expanded, relative_coordinates
from fd_scale.models.swin_v2_blocks import Block

CPU = torch.device("cpu")


def test_coordinates_keep_the_scale_of_the_trained_window():
    """An offset of one token has the coordinate that it had at window 8, whatever the window now."""
    at_8 = relative_coordinates((8, 8), 0, CPU).view(15, 15, 2)
    at_16 = relative_coordinates((16, 16), 8, CPU).view(31, 31, 2)
    assert torch.equal(at_16[8:23, 8:23], at_8)
    assert at_8[-1, -1].tolist() == pytest.approx([math.log2(9) / 3] * 2)
    assert not torch.equal(relative_coordinates((16, 16), 0, CPU).view(31, 31, 2)[8:23, 8:23], at_8)


def test_a_window_of_one_token_has_a_finite_bias():
    assert relative_coordinates((1, 1), 0, CPU).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("window", [(4, 4), (3, 5), (1, 6), (1, 1)])
def test_the_bias_of_a_pair_is_that_of_its_offset(window):
    table = torch.randn(2, 2 * window[0] - 1, 2 * window[1] - 1, dtype=torch.float64, requires_grad=True)
    by_index = table.flatten(1)[:, relative_index(window, CPU)]  # (heads, N, N)
    assert torch.equal(expanded(table), by_index)
    pull = torch.randn_like(by_index)
    gradient, expected = (torch.autograd.grad(bias, table, pull)[0] for bias in (expanded(table), by_index))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def dense_attention(block: Block, tokens: Tensor, window: int, shift: tuple[int, int]) -> Tensor:
    """One pair of real tokens after the other: no partition, no roll, no padded token. tokens (h, w, C)."""
    attn = block.attn
    height, width, channels = tokens.shape
    lengths = [math.ceil(side / window) * window for side in (height, width)]
    positions = [(row, column) for row in range(height) for column in range(width)]
    flat = tokens.reshape(-1, channels)
    query, key, value = (flat @ attn.qkv.weight.T).chunk(3, dim=-1)
    query, value = query + attn.q_bias, value + attn.v_bias

    def window_and_side(position):
        moved = [(axis - step) % length for axis, step, length in zip(position, shift, lengths, strict=True)]
        sides = [at >= length - step for at, step, length in zip(moved, shift, lengths, strict=True)]
        return [at // window for at in moved], sides, moved

    outputs = []
    d = channels // attn.heads
    for head in range(attn.heads):
        part = slice(head * d, (head + 1) * d)
        logits = torch.full((len(positions), len(positions)), -math.inf, dtype=tokens.dtype)
        for i, position in enumerate(positions):
            my_window, my_side, my_position = window_and_side(position)
            for j, other in enumerate(positions):
                its_window, its_side, its_position = window_and_side(other)
                if my_window != its_window:
                    continue
                offset = torch.tensor(my_position, dtype=tokens.dtype) - torch.tensor(its_position, dtype=tokens.dtype)
                offset = offset / (window - 1) * 8
                coordinate = offset.sign() * torch.log2(offset.abs() + 1) / 3
                cosine = torch.cosine_similarity(query[i, part], key[j, part], dim=0)
                bias = 16 * torch.sigmoid(attn.cpb_mlp(coordinate)[head])
                logits[i, j] = cosine * attn.logit_scale[head, 0, 0].exp() + bias
                logits[i, j] -= 0 if my_side == its_side else 100
        outputs.append(logits.softmax(-1) @ value[:, part])
    return attn.proj(torch.cat(outputs, dim=-1)).view(height, width, channels)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (8, 5), (4, 6)])
def test_a_padded_map_equals_attention_without_padding(size, shifted, randomise):
    # Norms and MLP stay out of this: the attention branch alone is compared.
    block = Block(
        8,
        2,
        window=4,
        shifted=shifted,
        drop_path=0.0,
        pretrained_window=0,
        shared_bias=False,
        extra_norm=False,
    ).double()
    randomise(block)
    tokens = torch.randn(1, *size, 8, dtype=torch.float64)
    shift = fitted_shift(size, 4) if shifted else (0, 0)
    layout = window_layout(1, size, (4, 4), shift, CPU)
    captured = []
    block.norm1.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    with torch.no_grad():
        block(tokens, layout, None)
        expected = dense_attention(block, tokens[0], 4, shift)
    # Coordinates are fp32, as published, so the bias carries fp32's error.
    torch.testing.assert_close(captured[0][0], expected, rtol=0, atol=1e-6)


def test_what_lies_in_the_padding_reaches_no_real_token(randomise):
    attention = WindowAttention(8, 2, pretrained_window=0, shared_bias=False)
    randomise(attention)
    # The largest scale: logits then differ by more than the -100 between regions, which would let padding through.
    init.constant(attention.logit_scale.data, math.log(100))
    layout = window_layout(3, (5, 7), (4, 4), (2, 2), CPU)
    assert layout.padded is not None
    padded = layout.padded.view(-1, 16)
    assert int((~padded).sum()) == 3 * 5 * 7
    windows = torch.randn(*padded.shape, 8)
    other = torch.where(padded[..., None], 1e3 * torch.randn_like(windows), windows)
    output, changed = (attention(w, layout, None) for w in (windows, other))
    assert torch.equal(output[~padded], changed[~padded])


def test_padding_gives_finite_gradients_at_initialisation():
    block = Block(8, 2, window=4, shifted=True, drop_path=0.0, pretrained_window=0, shared_bias=False, extra_norm=False)
    for name, parameter in block.named_parameters():
        init.constant(parameter.data, 1.0 if "norm" in name else 0.01)
    tokens = torch.randn(1, 5, 7, 8, requires_grad=True)
    block(tokens, window_layout(1, (5, 7), (4, 4), (2, 2), CPU), None).square().sum().backward()
    assert tokens.grad is not None
    assert all(gradient.isfinite().all() for gradient in [tokens.grad, *(p.grad for p in block.parameters())])
