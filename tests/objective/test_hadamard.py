import pytest
import torch

from fd_scale.errors import BadInput
from fd_scale.objective.hadamard import hadamard


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 48, 384])
def test_rows_are_signs_and_orthogonal(order):
    matrix = hadamard(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("width", [768, 1024, 1152, 1280, 1408, 1536, 1664])
def test_widths_of_published_teachers_are_reached(width):
    matrix = hadamard(width)
    for row in (0, 1, width // 2, width - 1):  # all pairs would take seconds
        expected = torch.zeros(width, dtype=torch.float64)
        expected[row] = width
        assert torch.equal(matrix @ matrix[row], expected)


@pytest.mark.parametrize("order", [3, 6, 28, 36, 21841])
def test_orders_that_are_not_reached_are_refused_with_the_fix(order):
    with pytest.raises(BadInput, match=rf"none of order {order}, .*; set target\.normalise=standardise"):
        hadamard(order)
