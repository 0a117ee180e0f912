"""Real DeepSpeed engines on two processes (gloo, CPU). Each check is a function of `program.py`."""

from functools import partial

from parallel.running import check

check = partial(check, "parallel.program")


def test_an_error_of_one_rank_is_raised_on_all():
    assert check("agreement") == 0


def test_recompute_changes_nothing():
    assert check("recompute") == 0


def test_a_gradient_that_is_not_finite_never_reaches_the_weights_and_shows():
    assert check("gradient_norms") == 0


def test_a_sharded_frozen_model_equals_the_plain_one():
    assert check("frozen") == 0
