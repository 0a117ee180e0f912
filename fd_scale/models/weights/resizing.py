"""Position embeddings and tables of position biases for another grid, when weights are loaded.

Sources: position embeddings as timm resamples them (bicubic, antialiased). Tables as BEiT (arXiv 2106.08254) and the
released code of feature distillation do: the old offsets are placed in geometric progression over the new range, dense
around zero, so that near neighbours keep their bias; a cubic spline through them is read at the new offsets.

What a model does in its forward for images of other sizes is another thing: `fd_scale.models.vit.resized_table`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fd_scale.errors import BadInput
from fd_scale.models.attention import widened

Grid = tuple[int, int]

CLASS_ROWS = 3
SMALLEST_SPLINE = 4
"""Points that a cubic spline needs: tables of 2x2 grids have three offsets along an axis."""


def square_grid(count: int, what: str) -> Grid:
    """Size of the grid of so many positions, which published files take to be square."""
    side = math.isqrt(max(count, 0))
    if count < 1 or side * side != count:
        raise BadInput(f"{what} has {count} positions, which is no square grid; only those can be resized")
    return side, side


def resized_positions(positions: Tensor, prefix: int, grid: Grid) -> Tensor:
    """Resize position embeddings of a square grid; the prefix is kept.

    (1, prefix + N, C) -> (1, prefix + h*w, C).
    """
    old = square_grid(positions.shape[1] - prefix, "pos_embed")
    maps = widened(positions[:, prefix:]).transpose(1, 2).unflatten(2, old)  # (1, C, old h, old w)
    maps = functional.interpolate(maps, grid, mode="bicubic", antialias=True)
    return torch.cat((positions[:, :prefix], maps.flatten(2).transpose(1, 2).to(positions.dtype)), dim=1)


def resized_offsets(table: Tensor, grid: Grid) -> Tensor:
    """Resize a table of position biases of a square grid of s; the class rows are kept.

    ((2s-1)^2 + 3, heads) -> ((2h-1)(2w-1) + 3, heads).

    Raises BadInput when the old grid is too small for a cubic spline.
    """
    old, _ = square_grid(len(table) - CLASS_ROWS, "relative_position_bias_table")
    sizes = [2 * side - 1 for side in grid]
    if old < SMALLEST_SPLINE:
        raise BadInput(f"a table of {old}x{old} offsets is too small to be resized to {sizes[0]}x{sizes[1]}")
    rows, columns = [_spline(_geometric(old, size), _offsets(size)) for size in sizes]  # (2h-1, old), (2w-1, old)
    maps = table[:-CLASS_ROWS].double().T.unflatten(1, (old, old))  # (heads, old, old)
    maps = rows @ maps @ columns.T  # (heads, 2h-1, 2w-1)
    return torch.cat((maps.flatten(1).T.to(table.dtype), table[-CLASS_ROWS:]))


def _offsets(size: int) -> Tensor:
    half = size // 2
    return torch.arange(-half, half + 1, dtype=torch.float64)


def _geometric(old: int, new: int) -> Tensor:
    """Where the old offsets stand: 0, 1, 1 + q, 1 + q + q^2, ... and their mirror, with the last at the new end.

    The published bisection of q between 1.01 and 1.5. For a smaller grid it ends at 1.01: nearly a cut-out. For one so
    much larger that even 1.5 does not reach the end, the last value holds beyond it.
    """
    half = old // 2

    def end(ratio: float) -> float:
        return (1 - ratio**half) / (1 - ratio)

    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if end(ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    steps = torch.tensor([ratio**power for power in range(half)], dtype=torch.float64).cumsum(0)
    return torch.cat((-steps.flip(0), torch.zeros(1, dtype=torch.float64), steps))


def _spline(knots: Tensor, points: Tensor) -> Tensor:
    """(points, knots) matrix that takes values at the knots to those of their cubic spline at the points.

    Not-a-knot at both ends; points beyond the ends take the ends' values. Solved for the second derivatives m:
    h[i-1] m[i-1] + 2 (h[i-1] + h[i]) m[i] + h[i] m[i+1] = 6 (slope[i] - slope[i-1]).
    """
    count = len(knots)
    step = knots.diff()
    slope = (torch.eye(count, dtype=knots.dtype)[1:] - torch.eye(count, dtype=knots.dtype)[:-1]) / step[:, None]
    left = torch.zeros(count, count, dtype=knots.dtype)
    right = torch.zeros(count, count, dtype=knots.dtype)
    for i in range(1, count - 1):
        left[i, i - 1], left[i, i], left[i, i + 1] = step[i - 1], 2 * (step[i - 1] + step[i]), step[i]
        right[i] = 6 * (slope[i] - slope[i - 1])
    # The third derivative does not jump at the second and the last but one knot.
    left[0, :3] = torch.stack((step[1], -step[0] - step[1], step[0]))
    left[-1, -3:] = torch.stack((step[-1], -step[-1] - step[-2], step[-2]))
    curvature = torch.linalg.solve(left, right)  # (knots, knots): m from the values

    points = points.clamp(knots[0], knots[-1])
    interval = (torch.searchsorted(knots, points, right=True) - 1).clamp(0, count - 2)
    width, after = step[interval, None], (points - knots[interval])[:, None]
    before = width - after
    values = torch.eye(count, dtype=knots.dtype)
    line = (before * values[interval] + after * values[interval + 1]) / width
    bend_start = (before**3 / width - before * width) / 6
    bend_end = (after**3 / width - after * width) / 6
    return line + bend_start * curvature[interval] + bend_end * curvature[interval + 1]
