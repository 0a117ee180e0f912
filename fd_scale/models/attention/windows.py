"""Attention inside (shifted) windows with a log-spaced continuous position bias: the core of SwinV2.

Source: arXiv 2111.09883, sections 3.2 and 3.3; names of parameters as Microsoft published them.

How maps are cut into windows: `layout`. How windows attend: `paths`.

Letters: W windows of a batch, h w window, N = h * w, T = (2h-1)(2w-1) offsets, C channels, d channels of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.models.attention.layout import Size, WindowLayout
from fd_scale.models.attention.paths import attend_in_windows, choose_path
from fd_scale.models.attention.plain import widened
from fd_scale.models.backbone import unset
from fd_scale.models.config import AttentionChoice
from fd_scale.models.precision import WideningLinear

LARGEST_LOGIT_SCALE = math.log(100.0)
POSITION_HIDDEN = 512


def relative_coordinates(window: Size, pretrained_window: int, device: torch.device) -> Tensor:
    """Offsets between two tokens as log-spaced coordinates ((2h-1)(2w-1), 2).

    They go from -8 to 8 over the window before they are log-spaced to about -1 to 1.

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
    """Build the network that turns an offset into one number for each head."""
    return nn.Sequential(WideningLinear(2, POSITION_HIDDEN), nn.ReLU(), nn.Linear(POSITION_HIDDEN, heads, bias=False))


def table_of(mlp: nn.Module, coordinates: Tensor, window: Size) -> Tensor:
    """Compute the table of biases (heads, 2h-1, 2w-1), at least fp32, from coordinates (T, 2) of all offsets."""
    table = 16 * widened(mlp(coordinates)).sigmoid()  # (T, heads)
    return table.T.unflatten(1, (2 * window[0] - 1, 2 * window[1] - 1))


def expanded(table: Tensor) -> Tensor:
    """Expand a table (heads, 2h-1, 2w-1) to the biases of all pairs (heads, N, N).

    Query (i, k) and key (j, l) find [i - j + h-1, k - l + w-1].

    Read backwards, the row of a query is a piece of the table, so the bias is a window that slides over it. The
    gradient of a look-up by an index would be a scattered sum, which takes several times as long.
    """
    height, width = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    pieces = table.flip(1, 2).unfold(1, height, 1).unfold(2, width, 1)  # (heads, h, w, h, w), queries backwards
    return pieces.flip(1, 2).flatten(3).flatten(1, 2)


class SharedPositionBias(nn.Module):
    """Position bias for all blocks of a stage, computed once per forward."""

    def __init__(self, heads: int):
        super().__init__()
        self.cpb_mlp = position_mlp(heads)

    def forward(self, coordinates: Tensor, window: Size) -> Tensor:
        return table_of(self.cpb_mlp, coordinates, window)


class ProjectionWithBias(nn.Linear):
    """Linear map whose bias is handed in, made of parameters that another module owns."""

    def __init__(self, width: int, outputs: int):
        super().__init__(width, outputs, bias=False)

    def forward(self, input: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        return functional.linear(input, self.weight, bias)


class WindowAttention(nn.Module):
    """Scaled cosine attention inside windows.

    `shared_bias`: the position bias is handed in, not computed here.

    attention, chunk: see `paths`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        pretrained_window: int,
        shared_bias: bool,
        attention: AttentionChoice = "auto",
        chunk: int = 0,
    ):
        super().__init__()
        self.heads = heads
        self.pretrained_window = pretrained_window
        self.attention: AttentionChoice = attention
        self.chunk = chunk
        self.logit_scale = unset(heads, 1, 1)
        self.cpb_mlp = None if shared_bias else position_mlp(heads)
        self.qkv = ProjectionWithBias(width, 3 * width)
        self.q_bias = unset(width)  # a bias of the keys would be all but lost in the normalisation
        self.v_bias = unset(width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, layout: WindowLayout, bias: Tensor | None) -> Tensor:
        """Attend inside the windows (W, N, C) of a layout, with a shared bias as `form` gives it. Returns (W, N, C)."""
        biases = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        projections = self.qkv(windows, biases)  # (W, N, 3C)
        scale = widened(self.logit_scale).clamp(max=LARGEST_LOGIT_SCALE).exp()
        if self.cpb_mlp is not None:
            coordinates = relative_coordinates(layout.window, self.pretrained_window, windows.device)
            bias = self.form(table_of(self.cpb_mlp, coordinates, layout.window))
        assert bias is not None, "this block shares the position bias of its stage, and none was handed in"
        path = choose_path(self.attention, windows.device.type, windows.shape[1])
        return self.proj(attend_in_windows(path, projections, scale, bias, layout, self.chunk))

    def form(self, table: Tensor) -> Tensor:
        """Bring a table (heads, 2h-1, 2w-1) into the form that the path in use takes.

        That is the table itself, or (heads, N, N).
        """
        tokens = (table.shape[1] + 1) // 2 * ((table.shape[2] + 1) // 2)
        return table if choose_path(self.attention, table.device.type, tokens) == "flex" else expanded(table)
