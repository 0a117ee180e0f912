"""Attention inside (shifted) windows with a log-spaced continuous position bias: the core of SwinV2.

Source: arXiv 2111.09883, sections 3.2 and 3.3; names of parameters as Microsoft published them.

Maps of any size: a map is padded at the bottom and the right to whole windows, then shifted, and no token attends to a
padded one. Published code differs: Microsoft's refuses such a map; timm shifts first, then pads, and lets real tokens
attend to the padded ones, whose key is zero and whose value is the value bias. On whole windows all three agree.
Between the regions that a shift brings together the published -100 is kept, not infinity: it is weak against logits
that differ by as much, which trained scales allow.

Letters: B batch, h w map, m windows of a padded map, N tokens of a window, C channels, d channels of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.models.attention import attend, join_heads, relative_index, split_heads, widened
from fd_scale.models.backbone import CastLinear, unset

Size = tuple[int, int]

PADDED = -1
ACROSS_REGIONS = -100.0
LARGEST_LOGIT_SCALE = math.log(100.0)
POSITION_HIDDEN = 512


def fitted_window(size: Size, window: int) -> Size:
    """The window, shrunk along each dimension to the map."""
    return min(size[0], window), min(size[1], window)


def fitted_shift(size: Size, window: int) -> Size:
    """Half a window along each dimension where the map holds more than one."""
    half = window // 2
    return half if size[0] > window else 0, half if size[1] > window else 0


def window_partition(tokens: Tensor, window: Size) -> Tensor:
    """(B, h, w, C), whole windows -> (B, m, N, C)."""
    tokens = tokens.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # (B, rows, wh, columns, ww, C)
    return tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_merge(windows: Tensor, window: Size, size: Size) -> Tensor:
    """(B, m, N, C) -> (B, h, w, C); `size` is that of the padded map."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    tokens = windows.unflatten(2, window).unflatten(1, (rows, columns))  # (B, rows, columns, wh, ww, C)
    return tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_regions(size: Size, window: Size, shift: Size, device: torch.device) -> Tensor | None:
    """(m, N) region of every token of the padded, shifted map; PADDED for padding. None: nothing needs a mask.

    A shift rolls the first rows to the end, so only the last windows hold two sides that are no neighbours.
    """
    padding = (-size[0] % window[0], -size[1] % window[1])
    if padding == (0, 0) and shift == (0, 0):
        return None
    rolled, padded = [], []
    for length, extra, step in zip(size, padding, shift, strict=True):
        position = torch.arange(length + extra, device=device)
        rolled.append(position >= length + extra - step)
        padded.append((position + step) % (length + extra) >= length)
    regions = 2 * rolled[0].long()[:, None] + rolled[1].long()
    regions = regions.masked_fill(padded[0][:, None] | padded[1], PADDED)
    return window_partition(regions[None, :, :, None], window)[0, :, :, 0]


def region_mask(regions: Tensor) -> Tensor:
    """(m, N) -> (m, 1, N, N) to add to the logits. Finite somewhere in every row: no window is padding alone."""
    mask = torch.zeros(regions.shape[0], 1, regions.shape[1], regions.shape[1], device=regions.device)
    mask = mask.masked_fill((regions[:, :, None] != regions[:, None, :])[:, None], ACROSS_REGIONS)
    return mask.masked_fill((regions == PADDED)[:, None, None, :], -math.inf)


def relative_coordinates(window: Size, pretrained_window: int, device: torch.device) -> Tensor:
    """((2h-1)(2w-1), 2) offsets between two tokens: -8 .. 8 over the window, then log-spaced to about -1 .. 1.

    `pretrained_window` (0: none) keeps the scale of the window that the weights were trained with, so that the same
    distance in tokens keeps its meaning in another window. fp32, as in published code.
    """
    axes = []
    for length in window:
        offsets = torch.arange(1 - length, length, device=device, dtype=torch.float32)
        axes.append(offsets / max((pretrained_window or length) - 1, 1) * 8)
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
    return offsets.sign() * (offsets.abs() + 1).log2() / math.log2(8)


def position_mlp(heads: int) -> nn.Sequential:
    """Offset -> one number for each head."""
    return nn.Sequential(CastLinear(2, POSITION_HIDDEN), nn.ReLU(), nn.Linear(POSITION_HIDDEN, heads, bias=False))


def position_bias(mlp: nn.Module, coordinates: Tensor, index: Tensor) -> Tensor:
    """(T, 2) coordinates of all offsets and the (N, N) index into them -> (heads, N, N), at least fp32."""
    table = 16 * widened(mlp(coordinates)).sigmoid()  # (T, heads)
    return functional.embedding(index, table).permute(2, 0, 1)


class SharedPositionBias(nn.Module):
    """One position bias for all blocks of a stage, computed once per forward."""

    def __init__(self, heads: int):
        super().__init__()
        self.cpb_mlp = position_mlp(heads)

    def forward(self, coordinates: Tensor, index: Tensor) -> Tensor:
        return position_bias(self.cpb_mlp, coordinates, index)


class WindowAttention(nn.Module):
    """Scaled cosine attention inside windows. `shared_bias`: the position bias is handed in, not computed here."""

    def __init__(self, width: int, heads: int, *, pretrained_window: int, shared_bias: bool):
        super().__init__()
        self.heads = heads
        self.pretrained_window = pretrained_window
        self.logit_scale = unset(heads, 1, 1)
        self.cpb_mlp = None if shared_bias else position_mlp(heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = unset(width)  # a bias of the keys would be all but lost in the normalisation
        self.v_bias = unset(width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, window: Size, regions: Tensor | None, bias: Tensor | None) -> Tensor:
        """windows (B, m, N, C), regions (m, N), bias (heads, N, N) -> (B, m, N, C)."""
        query, key, value = self.qkv(windows).chunk(3, dim=-1)
        query = split_heads(query + self.q_bias, self.heads)  # (B, m, heads, N, d)
        key = split_heads(key, self.heads)
        value = split_heads(value + self.v_bias, self.heads)
        scale = widened(self.logit_scale).clamp(max=LARGEST_LOGIT_SCALE).exp()
        query = functional.normalize(widened(query), dim=-1) * scale
        key = functional.normalize(widened(key), dim=-1)
        if self.cpb_mlp is not None:
            coordinates = relative_coordinates(window, self.pretrained_window, windows.device)
            bias = position_bias(self.cpb_mlp, coordinates, relative_index(window, windows.device))
        assert bias is not None, "this block shares the position bias of its stage, and none was handed in"
        if regions is not None:
            bias = bias + region_mask(regions)  # (m, heads, N, N)
        return self.proj(join_heads(attend(query, key, value, bias)))
