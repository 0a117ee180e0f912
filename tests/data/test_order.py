import pytest
from hypothesis import given
from hypothesis import strategies as st

from fd_scale.data.order import Draw, micro_batch_draws, steps_in_pass
from fd_scale.errors import BadInput


def global_batch_of(step: int, samples: int, seed: int, world: int, micro: int, accumulation: int) -> list[Draw]:
    size = world * micro * accumulation
    return [
        draw
        for rank in range(world)
        for m in range(accumulation)
        for draw in micro_batch_draws(samples, seed, step, m, rank, global_batch=size, micro_batch=micro, world=world)
    ]


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 30), st.integers(0, 20), st.integers(0, 9)
)
def test_no_sample_twice_in_a_pass(world, micro, accumulation, extra, step, seed):
    size = world * micro * accumulation
    samples = size * 2 + extra
    steps = steps_in_pass(samples, size)
    first = step // steps * steps
    drawn = [
        draw.sample
        for s in range(first, first + steps)
        for draw in global_batch_of(s, samples, seed, world, micro, accumulation)
    ]
    assert len(set(drawn)) == len(drawn) == steps * size
    assert all(0 <= index < samples for index in drawn)


@given(st.integers(0, 50), st.integers(0, 5))
def test_a_global_batch_is_the_same_for_any_way_of_cutting_it(step, seed):
    whole = global_batch_of(step, 100, seed, 1, 12, 1)
    for world, micro, accumulation in [(2, 6, 1), (3, 2, 2), (4, 1, 3), (1, 3, 4), (12, 1, 1)]:
        assert global_batch_of(step, 100, seed, world, micro, accumulation) == whole


def test_passes_differ():
    assert global_batch_of(0, 64, 0, 1, 64, 1) != global_batch_of(1, 64, 0, 1, 64, 1)


def test_fewer_samples_than_a_global_batch_is_refused():
    with pytest.raises(BadInput, match="holds 7 samples, fewer than one global batch of 8"):
        steps_in_pass(7, 8)
