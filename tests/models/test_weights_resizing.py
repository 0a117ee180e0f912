"""Positions on another grid: as timm and the published code of feature distillation resize them."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from fd_scale.errors import BadInput
from fd_scale.models.vit import table_length
from fd_scale.models.weights.resizing import _geometric, resized_offsets, resized_positions


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (3, 3)])
def test_position_embeddings_are_resized_as_in_timm(grid):
    positions = torch.randn(1, 1 + 25, 6)
    expected = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=1)
    torch.testing.assert_close(resized_positions(positions, 1, grid), expected, rtol=0, atol=0)


def published(table: torch.Tensor, new: int) -> torch.Tensor:
    """The same bicubic spline, of FITPACK, through the same points."""
    interpolate = pytest.importorskip("scipy.interpolate")
    old = int((len(table) - 3) ** 0.5)
    knots = _geometric(old, new).numpy()
    points = torch.arange(new, dtype=torch.float64).sub(new // 2).clamp(knots[0], knots[-1]).numpy()
    heads = [
        interpolate.RectBivariateSpline(knots, knots, values.view(old, old).numpy(), s=0)(points, points)
        for values in table[:-3].double().T
    ]
    resized = torch.stack([torch.from_numpy(values).flatten() for values in heads], dim=1)
    return torch.cat((resized, table[-3:].double()))


@pytest.mark.parametrize(("old", "new"), [(14, 16), (14, 24), (16, 14), (4, 6), (4, 2)])
def test_tables_are_the_published_cubic_spline_and_keep_the_class_rows(old, new):
    table = torch.randn(table_length((old, old)), 2, dtype=torch.float64)
    resized = resized_offsets(table, (new, new))
    assert resized.shape == (table_length((new, new)), 2)
    torch.testing.assert_close(resized, published(table, 2 * new - 1), rtol=0, atol=1e-9)
    assert torch.equal(resized[-3:], table[-3:])


def test_offsets_stand_in_geometric_progression_up_to_the_new_end():
    knots = _geometric(27, 47)
    steps = knots[14:].diff()
    assert torch.allclose(steps[1:] / steps[:-1], (steps[1] / steps[0]).expand(11))
    assert knots[13:15].tolist() == [0, 1]
    assert abs(knots[-1] - 23) < 1e-3
    assert torch.equal(knots, -knots.flip(0))


def test_near_neighbours_keep_their_bias():
    """What the progression is for: dense around zero, an offset of one token stays one token."""
    old = torch.randn(table_length((14, 14)), 1, dtype=torch.float64)
    new = resized_offsets(old, (24, 24))
    before, after = old[:-3].view(27, 27), new[:-3].view(47, 47)
    torch.testing.assert_close(after[22:25, 22:25], before[12:15, 12:15], rtol=0, atol=1e-9)


def test_a_flat_table_stays_flat_on_grids_that_are_not_square():
    table = torch.full((table_length((4, 4)), 1), 3.0)
    resized = resized_offsets(table, (6, 5))
    assert resized.shape == (table_length((6, 5)), 1)
    torch.testing.assert_close(resized, torch.full_like(resized, 3.0))


def test_grids_that_cannot_be_resized_are_refused():
    with pytest.raises(BadInput, match="3x3 offsets is too small"):
        resized_offsets(torch.zeros(table_length((2, 2)), 1), (4, 4))
    with pytest.raises(BadInput, match="24 positions, which is no square grid"):
        resized_positions(torch.zeros(1, 25, 4), 1, (4, 4))
