import math

import pytest
import torch

from fd_scale.finite import all_finite, not_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_number_that_is_not_finite_is_seen_and_large_ones_are_finite(dtype):
    values = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)  # their sum is none
    assert all_finite(values)
    for wrong in (math.nan, math.inf, -math.inf):
        values[17] = wrong
        assert not all_finite(values)


def test_what_has_no_numbers_or_only_whole_ones_is_finite():
    assert not_finite([("none", torch.empty(0)), ("of int", torch.arange(3)), ("bad", torch.tensor([math.nan]))]) == [
        "bad"
    ]
