"""Which checkpoints stay."""

from hypothesis import given
from hypothesis import strategies as st

from fd_scale.parallel.checkpoint.retention import Retention

losses = {10: {"loss": 0.9}, 20: {"loss": 0.4}, 30: {"loss": 0.6}, 40: {"loss": 0.5}, 50: {}}


def test_the_newest_stay():
    assert Retention(last=2).kept(losses) == {40, 50}


def test_every_nth_and_the_best_stay_as_well():
    assert Retention(last=1, every=20).kept(losses) == {20, 40, 50}
    assert Retention(last=1, best="loss").kept(losses) == {20, 50}
    assert Retention(last=1, best="loss", best_is="highest").kept(losses) == {10, 50}


def test_a_metric_that_nobody_measured_keeps_nothing():
    assert Retention(last=1, best="accuracy").kept(losses) == {50}


def test_the_later_of_two_equal_ones_is_the_best():
    assert Retention(best="x").best_step({1: {"x": 2.0}, 3: {"x": 2.0}, 2: {"x": 2.0}}) == 3


@given(st.sets(st.integers(1, 99), min_size=1), st.integers(-2, 5), st.none() | st.integers(1, 9))
def test_the_newest_always_stays(steps, last, every):
    kept = Retention(last, every).kept({step: {} for step in steps})
    assert max(steps) in kept
    assert kept <= steps


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 3))
def test_rotating_after_every_save_keeps_the_best_of_all(values, last):
    """What was rotated away earlier can never be the best later."""
    retention, there = Retention(last, best="loss"), {}
    for step, value in enumerate(values):
        there[step] = {"loss": value}
        there = {kept: there[kept] for kept in retention.kept(there)}
    assert min(entry["loss"] for entry in there.values()) == min(values)
