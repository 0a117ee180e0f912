"""Layout of (shifted) windows on a map, and which tokens of a window see one another.

Source: arXiv 2103.14030, section 3.2. Maps of any size: a map is padded at the bottom and the right to whole windows,
then shifted, and no token attends to a padded one. Published code differs: Microsoft's refuses such a map; timm shifts
first, then pads, and lets real tokens attend to the padded ones. On whole windows all three agree.

Nothing is padded or rolled in fact: one index says which token is at each position of each window, so cutting and
joining are one copy each. A padded position holds a copy of a real token, which no token attends to, and whose own
output is dropped. Windows come sorted by kind, over the whole batch. Along one axis all are alike but the last, and the
one before it where the padding is longer than what the shift leaves: so there are at most four kinds on a map of whole
windows, or where padding and shift fit into one window together, and never more than nine.

Letters: B batch, h w map, m windows of a map, W = B * m, K kinds, N tokens of a window, C channels.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int]

PADDED = -1


def fitted_window(size: Size, window: int) -> Size:
    """Shrink the window along each dimension to the map."""
    return min(size[0], window), min(size[1], window)


def fitted_shift(size: Size, window: int) -> Size:
    """Compute the shift: half a window along each dimension where the map holds more than one."""
    half = window // 2
    return half if size[0] > window else 0, half if size[1] > window else 0


def axis_kinds(length: int, window: int, shift: int) -> list[range]:
    """Group the windows along one axis by kind."""
    windows = -(-length // window)
    padding = windows * window - length
    special = 2 if shift and padding > window - shift else 1 if shift or padding else 0
    plain = windows - special
    return ([range(plain)] if plain else []) + [range(number, number + 1) for number in range(plain, windows)]


@dataclass(frozen=True)
class WindowLayout:
    """Layout of windows on a batch of maps, as indices.

    counts: windows of each kind, over the batch; they add up to W.
    regions: (K, N) the side of the shift that a token of that kind is from, PADDED for padding. Tokens of different
        regions are no neighbours. None: all windows are whole and see themselves whole.
    take: (W * N,) the token, of B * h * w, at each position of each window.
    back: (B * h * w,) the position of each token.
    padded: (W * N, 1) the positions that padding takes; None where there is none.
    """

    size: Size
    window: Size
    counts: tuple[int, ...]
    regions: Tensor | None
    take: Tensor
    back: Tensor
    padded: Tensor | None

    def cut(self, tokens: Tensor) -> Tensor:
        """Cut maps into windows. (B, h, w, C) -> (W, N, C)."""
        rows = Rows.apply(tokens.flatten(0, 2), self.take, self.back, None)
        return rows.unflatten(0, (-1, self.window[0] * self.window[1]))

    def join(self, windows: Tensor) -> Tensor:
        """Join windows to maps. (W, N, C) -> (B, h, w, C)."""
        rows = Rows.apply(windows.flatten(0, 1), self.back, self.take, self.padded)
        return rows.unflatten(0, (-1, *self.size))


def window_layout(batch: int, size: Size, window: Size, shift: Size, device: torch.device) -> WindowLayout:
    """Compute the layout of windows from integers; no device is waited for."""
    origins, labels, padded = [], [], []
    for length, side, step in zip(size, window, shift, strict=True):
        whole = -(-length // side) * side
        position = torch.arange(whole, device=device)
        origin = (position + step) % whole
        origins.append(origin.clamp(max=length - 1).unflatten(0, (-1, side)))  # (windows of the axis, side)
        padded.append((origin >= length).unflatten(0, (-1, side)))
        labels.append((position >= whole - step).long().unflatten(0, (-1, side)))
    takes, paddings, regions, counts = [], [], [], []
    axes = [axis_kinds(*axis) for axis in zip(size, window, shift, strict=True)]
    for rows, columns in product(*axes):
        span = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        position = origins[0][span[0]][:, None, :, None] * size[1] + origins[1][span[1]][None, :, None, :]
        takes.append(position.flatten(2).flatten(0, 1))  # (m of this kind, N)
        padding = padded[0][span[0]][:, None, :, None] | padded[1][span[1]][None, :, None, :]
        paddings.append(padding.flatten(2).flatten(0, 1))
        region = 2 * labels[0][rows.start][:, None] + labels[1][columns.start]  # (wh, ww)
        regions.append(region.flatten().masked_fill(paddings[-1][0], PADDED))
        counts.append(batch * len(rows) * len(columns))
    # Window by window, each for every image in turn: the windows of a kind are one run, whatever the batch.
    images = torch.arange(batch, device=device)[:, None] * (size[0] * size[1])
    take = (torch.cat(takes)[:, None] + images).flatten()  # (m, B, N) flat
    tokens = batch * size[0] * size[1]
    if len(take) == tokens:
        padding_rows, target = None, take
    else:
        padding_rows = torch.cat(paddings)[:, None].expand(-1, batch, -1).flatten()
        target = take.masked_fill(padding_rows, tokens)  # padding is written behind the last token, and cut off
    back = take.new_empty(tokens + 1).scatter_(0, target, torch.arange(len(take), device=device))[:tokens]
    alike = padding_rows is None and not any(shift)
    return WindowLayout(
        size=size,
        window=window,
        counts=tuple(counts),
        regions=None if alike else torch.stack(regions),
        take=take,
        back=back,
        padded=None if padding_rows is None else padding_rows[:, None],
    )


class Rows(torch.autograd.Function):
    """Look-up rows[index], where `reverse` is the way back.

    The gradient of torch's own indexing is a slow sum. Here every row that counts is taken once, so its gradient is a
    second look-up.

    dropped: rows of the input that nobody takes; their gradient is 0. Rows taken for padding have a gradient of 0.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, reverse: Tensor, dropped: Tensor | None) -> Tensor:
        ctx.save_for_backward(reverse, dropped)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        reverse, dropped = ctx.saved_tensors
        gradient = gradient.index_select(0, reverse)
        return gradient if dropped is None else gradient.masked_fill_(dropped, 0), None, None, None
