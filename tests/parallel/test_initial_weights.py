"""A run starts from the same values whatever its ZeRO stage and precision; real engines on two processes."""

import pytest
from parallel.running import check
from support.parts import sweep


@pytest.mark.parametrize("which", sweep(["spread", "all"], ["spread"]))
def test_every_model_starts_from_the_same_masters_and_learns_alike_at_every_stage_and_precision(which):
    assert check("parallel.initial_program", "every_model", which) == 0
