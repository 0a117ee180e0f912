"""Real DeepSpeed engines on two processes (gloo, CPU). Each check is a function of `program.py`."""

from functools import partial

import pytest
from parallel.running import check

check = partial(check, "parallel.program")


def test_sharded_build_equals_unsharded_tensor_by_tensor():
    assert check("sharded_build") == 0


def test_an_error_of_one_rank_is_raised_on_all():
    assert check("agreement") == 0


def test_recompute_changes_nothing():
    assert check("recompute") == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_shows(precision):
    assert check("gradient_norms", precision) == 0


def test_a_sharded_frozen_model_equals_the_plain_one():
    assert check("frozen") == 0
