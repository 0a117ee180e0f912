"""Cutting maps into windows by an index, against padding, rolling and partitioning them as the papers do."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fd_scale.models.attention.layout import PADDED, fitted_shift, fitted_window, window_layout
from fd_scale.models.attention.paths import region_mask

CPU = torch.device("cpu")

SIZES = [(h, w) for h in range(1, 14) for w in (1, 4, 5, 7, 8, 11)]
WINDOWS = [1, 2, 3, 4, 6, 7]


def partition(tokens: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, h, w, C), whole windows -> (B, m, N, C)."""
    tokens = tokens.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def by_the_book(tokens: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """(B, h, w, C) -> (B, m, N, C): pad with -1, roll, partition."""
    height, width = tokens.shape[1:3]
    tokens = functional.pad(tokens, (0, 0, 0, -width % window[1], 0, -height % window[0]), value=-1)
    return partition(tokens.roll((-shift[0], -shift[1]), dims=(1, 2)), window)


def regions_by_the_book(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """(m, N): the slices of published code, numbered over the rolled map; PADDED for padding."""
    whole = [-(-length // side) * side for length, side in zip(size, window, strict=True)]
    sides = torch.zeros(1, *whole, 1)
    number = 0
    for rows in (slice(0, whole[0] - shift[0]), slice(whole[0] - shift[0], None)):
        for columns in (slice(0, whole[1] - shift[1]), slice(whole[1] - shift[1], None)):
            sides[:, rows, columns] = number
            number += 1
    real = by_the_book(torch.ones(1, *size, 1), window, shift)[0, :, :, 0] > 0
    return partition(sides, window)[0, :, :, 0].masked_fill(~real, PADDED)


def shifts(size: tuple[int, int], window: int) -> set[tuple[int, int]]:
    return {(0, 0), fitted_shift(size, window)}


def cases():
    for size in SIZES:
        for window in WINDOWS:
            for shift in shifts(size, window):
                yield size, fitted_window(size, window), shift


def test_window_shrinks_and_shift_vanishes_along_each_dimension_that_one_window_covers():
    assert fitted_window((5, 20), 8) == (5, 8)
    assert fitted_shift((5, 20), 8) == (0, 4)
    assert fitted_shift((8, 9), 8) == (0, 4)


def test_windows_hold_what_padding_and_rolling_would_put_there_and_masks_are_exact_for_every_size():
    """Windows come in another order, so each is found by its tokens; padded positions may hold anything."""
    for size, window, shift in cases():
        layout = window_layout(2, size, window, shift, CPU)
        tokens = torch.arange(2.0 * size[0] * size[1]).view(2, *size, 1)
        windows = layout.cut(tokens)[..., 0]
        padded = torch.zeros_like(windows, dtype=torch.bool)
        if layout.padded is not None:
            padded = layout.padded.view_as(windows)
        found = windows.masked_fill(padded, -1)
        expected = by_the_book(tokens, window, shift).flatten(0, 1)[..., 0]  # (W, N)
        masks = region_mask(regions_by_the_book(size, window, shift)).repeat(2, 1, 1)
        where = {tuple(window.tolist()): mask for window, mask in zip(expected, masks, strict=True)}
        assert len(found) == len(where) == sum(layout.counts), (size, window, shift)
        ours = torch.zeros(1, *masks.shape[1:]) if layout.regions is None else region_mask(layout.regions)
        kinds = [kind for kind, count in enumerate(layout.counts) for _ in range(count)]
        for tokens_of_window, kind in zip(found, kinds, strict=True):
            assert torch.equal(ours[kind], where[tuple(tokens_of_window.tolist())]), (size, window, shift, kind)


def test_at_most_four_kinds_of_window_serve_a_shifted_map_and_nine_one_with_much_padding():
    assert window_layout(1, (8, 12), (4, 4), (0, 0), CPU).regions is None, "whole windows need no mask"
    assert window_layout(3, (16, 20), (4, 4), (2, 2), CPU).counts == (3 * 12, 3 * 3, 3 * 4, 3)
    assert window_layout(1, (15, 20), (4, 4), (2, 2), CPU).counts == (12, 3, 4, 1), "padding and shift share a window"
    assert len(window_layout(1, (13, 17), (4, 4), (2, 2), CPU).counts) == 9
    for size, window, shift in cases():
        kinds = len(window_layout(1, size, window, shift, CPU).counts)
        little = all(-length % side <= side - step for length, side, step in zip(size, window, shift, strict=True))
        assert kinds <= (4 if little else 9)


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (13, 4)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2)])
def test_joining_undoes_cutting_and_gradients_are_those_of_the_tokens_that_were_moved(size, shift):
    window = fitted_window(size, 4)
    shift = tuple(step if length > 4 else 0 for step, length in zip(shift, size, strict=True))
    layout = window_layout(2, size, window, shift, CPU)
    tokens = torch.randn(2, *size, 3, requires_grad=True)
    windows = layout.cut(tokens)
    windows.retain_grad()
    assert torch.equal(layout.join(windows), tokens)
    pull = torch.randn(2, *size, 3)
    layout.join(windows).backward(pull)
    assert torch.equal(tokens.grad, pull)
    expected = by_the_book(pull + 10, window, shift).flatten(0, 1)  # +10: padding is then the only negative
    sums = torch.where(expected < 0, 0, expected - 10).sum(dim=(1, 2))
    torch.testing.assert_close(windows.grad.sum(dim=(1, 2)).sort().values, sums.sort().values)
