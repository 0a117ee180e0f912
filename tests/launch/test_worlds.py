"""Which worlds an elastic launch may have, and which hosts make them."""

import pytest

from fd_scale.batch_plan import plan_batch
from fd_scale.errors import BadInput
from fd_scale.launch.elastic.worlds import in_words, largest_world, possible_worlds, read_bounds, worlds_line

SLOTS = {"a": 2, "b": 2, "c": 4}


@pytest.mark.parametrize("text", ["", "2", "0:2", "3:2", "2:", "-1:2", "1:2:3", "one:two", "1:9999999"])
def test_bounds_that_are_none_are_refused_by_name(text):
    with pytest.raises(BadInput, match=r"--elastic .* is not of the form MIN:MAX"):
        read_bounds(text)


def test_possible_worlds_are_those_that_the_batch_plan_takes():
    possible, skipped = possible_worlds(read_bounds("1:30"), 24, global_batch=48, micro_batch=2)
    assert [*sorted([*possible, *skipped])] == list(range(1, 25))
    for world in possible:
        batch = plan_batch(48, 2, world)
        assert batch.accumulation * batch.micro_batch * world == 48
    for world in skipped:
        with pytest.raises(BadInput):
            plan_batch(48, 2, world)


@pytest.mark.parametrize(
    ("bounds", "named"), [("9:16", "8 slots"), ("5:7", "for the largest: train.global_batch 8.*train.micro_batch 2")]
)
def test_bounds_without_a_possible_world_are_refused(bounds, named):
    with pytest.raises(BadInput, match=named):
        possible_worlds(read_bounds(bounds), 8, global_batch=8, micro_batch=2)


@pytest.mark.parametrize(
    ("gone", "ranks"),
    [
        ("", {"a": 2, "b": 2, "c": 4}),
        ("a", {"b": 2, "c": 2}),  # 6 slots, and 6 does not fit: the last host has fewer ranks than slots
        ("c", {"a": 2, "b": 2}),
        ("ab", {"c": 4}),
        ("ac", {"b": 2}),
        ("abc", {}),
    ],
)
def test_the_largest_world_of_the_hosts_that_are_left_is_taken_in_their_order(gone, ranks):
    left = {host: count for host, count in SLOTS.items() if host not in gone}
    assert list(largest_world(left, [1, 2, 4, 8]).items()) == list(ranks.items())


def test_no_world_is_better_than_one_below_the_smallest():
    assert largest_world({"a": 2}, [4, 8]) == {}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([3], "3"), ([1, 2], "1 and 2"), ([1, 2, 3, 4, 8, 16], "1-4, 8 and 16"), ([2, 3, 5, 6, 7], "2, 3 and 5-7")],
)
def test_numbers_in_words(numbers, words):
    assert in_words(numbers) == words


def test_the_line_at_the_start_names_the_worlds_that_are_skipped_and_why():
    line = worlds_line([1, 2, 4], [3], 8, 2)
    assert line == (
        "elastic: worlds of 1, 2 and 4 ranks are possible; 3 skipped, because train.global_batch 8 is not divisible by "
        "ranks x train.micro_batch 2"
    )
    assert "skipped" not in worlds_line([1, 2], [], 8, 2)
