"""A run starts from the same values whatever its ZeRO stage and precision; real engines on two processes."""

from parallel.running import check


def test_every_model_starts_from_the_same_masters_and_learns_alike_at_every_stage_and_precision():
    assert check("parallel.initial_program", "every_model") == 0
