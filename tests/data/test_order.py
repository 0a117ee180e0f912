import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fd_scale.data.config import OrderConfig
from fd_scale.data.order import BLOCK, DatasetOrder, Draw, Order
from fd_scale.errors import BadInput

shards = st.lists(st.integers(1, 90), min_size=1, max_size=30)
streams = st.integers(1, 40)
groups = st.integers(1, 5)


def ranks_of(order: Order, step: int, world: int, micro: int, accumulation: int) -> list[list[Draw]]:
    cut = {"global_batch": world * micro * accumulation, "micro_batch": micro, "world": world}
    return [
        [draw for m in range(accumulation) for draw in order.micro_batch(step, m, rank, **cut)] for rank in range(world)
    ]


@given(shards, streams, groups, st.integers(0, 99), st.integers(0, 3))
def test_no_sample_twice_in_a_pass(sizes, streams, group_shards, seed, data_pass):
    order = DatasetOrder(sizes, seed, OrderConfig(streams, group_shards))
    first = data_pass * order.pass_samples
    drawn = [order.sample(count) for count in range(first, first + order.pass_samples)]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(sum(sizes)))
    assert sum(sizes) - len(drawn) < order.streams


@settings(deadline=None)
@given(
    st.lists(shards, min_size=1, max_size=3),
    streams,
    st.integers(0, 99),
    st.integers(0, 50),
    st.sampled_from([(2, 6, 1), (3, 2, 2), (4, 1, 3), (1, 3, 4), (12, 1, 1), (6, 2, 1)]),
)
def test_a_global_batch_is_the_same_for_any_way_of_cutting_it(datasets, streams, seed, step, cut):
    config = OrderConfig(streams)
    (whole,) = ranks_of(Order(datasets, seed, config), step, 1, 12, 1)
    parts = ranks_of(Order(datasets, seed, config), step, *cut)
    assert [draw for part in parts for draw in part] == whole
    assert {len(part) for part in parts} == {12 // cut[0]}
    assert sorted(draw.position for draw in whole) == list(range(12))


@settings(deadline=None)
@given(shards, streams, st.integers(0, 9), st.integers(0, 40))
def test_position_i_of_a_batch_comes_from_its_stream(sizes, streams, seed, step):
    order = Order([sizes], seed, OrderConfig(streams))
    dataset = order.datasets[0]
    (whole,) = ranks_of(order, step, 1, 10, 1)
    for draw in whole:
        assert draw.sample == dataset.sample(step * 10 + draw.position)
    # by stream, so that ranks take whole ones
    of_streams = [(step * 10 + draw.position) % dataset.streams for draw in whole]
    assert of_streams == sorted(of_streams)


def test_64_hosts_read_each_shard_on_at_most_two_of_them():
    sizes = [1000 - number % 7 for number in range(300)]
    order = Order([sizes], 3, OrderConfig(streams=128))
    first = order.datasets[0].first
    readers = defaultdict(set)
    for step in range(0, order.steps_in_pass(2048)):
        for host, draws in enumerate(ranks_of(order, step, 64, 32, 1)):
            for draw in draws[::8]:  # an eighth is enough to see who reads where
                readers[int(first.searchsorted(draw.sample, side="right"))].add(host)
    assert len(readers) == 300
    assert max(len(hosts) for hosts in readers.values()) <= 2
    # and a host reads about its share of the data
    of_host = [sum(host in hosts for hosts in readers.values()) for host in range(64)]
    assert max(of_host) <= 300 / 64 + 2


def test_where_ranks_do_not_divide_the_streams_only_border_streams_are_split():
    order = Order([[1000] * 50], 0, OrderConfig(streams=128))
    owners = defaultdict(set)
    for rank, draws in enumerate(ranks_of(order, 5, 3, 128, 1)):
        for draw in draws:
            owners[(5 * 384 + draw.position) % 128].add(rank)
    assert sum(len(ranks) > 1 for ranks in owners.values()) <= 2


def test_groups_are_read_one_after_the_other():
    """Remote reading stays sequential: within a stream a group of shards is finished before the next begins."""
    order = DatasetOrder([50] * 40, 0, OrderConfig(streams=2, group_shards=4))
    shard_of = [int(order.first.searchsorted(order.sample(count), side="right")) for count in range(0, 2000, 2)]
    for part in range(5):
        assert len(set(shard_of[part * 200 : (part + 1) * 200])) == 4
    assert len(set(shard_of)) == 20


def test_neighbouring_samples_are_mixed_within_a_group():
    order = DatasetOrder([1000], 0, OrderConfig(streams=1))
    drawn = [order.sample(count) for count in range(1000)]
    assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(drawn)) < 10


def test_passes_and_seeds_differ():
    sizes = [100] * 10
    draws = {
        (seed, data_pass): tuple(
            DatasetOrder(sizes, seed, OrderConfig(4)).sample(1000 * data_pass + count) for count in range(50)
        )
        for seed in range(3)
        for data_pass in range(3)
    }
    assert len(set(draws.values())) == 9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.05, 5), min_size=2, max_size=4), st.integers(0, 9))
def test_a_mixture_has_its_shares_and_repeats_nothing_within_a_pass_of_each(weights, seed):
    datasets = [[70, 30 * (number + 1)] for number in range(len(weights))]
    order = Order(datasets, seed, OrderConfig(8), weights)
    draws = [draw for step in range(2 * BLOCK // 100) for draw in ranks_of(order, step, 1, 100, 1)[0]]
    drawn = defaultdict(list)
    for draw in sorted(draws, key=lambda d: (d.step, d.position)):
        drawn[draw.dataset].append(draw.sample)
    for number, dataset in enumerate(order.datasets):
        assert abs(len(drawn[number]) / len(draws) - weights[number] / sum(weights)) <= 1 / BLOCK
        for first in range(0, len(drawn[number]) - dataset.pass_samples, dataset.pass_samples):
            one_pass = drawn[number][first : first + dataset.pass_samples]
            assert len(set(one_pass)) == len(one_pass)


def test_a_late_position_costs_what_an_early_one_does():
    """No walking: a position in pass 1,000,000 is found by the same few look-ups (a bound on calls, not on time)."""
    order = DatasetOrder([1000] * 100, 0, OrderConfig(8))
    order.sample(0)
    early = order._group.cache_info().misses
    order.sample(10**11 + 7)
    assert order._group.cache_info().misses == early + 1


def test_fewer_samples_than_a_global_batch_is_refused():
    with pytest.raises(BadInput, match="holds 7 samples, fewer than one global batch of 8"):
        Order([[7]], 0, OrderConfig()).steps_in_pass(8)


def test_a_weight_too_small_to_matter_is_refused():
    with pytest.raises(BadInput, match="less than 1/1000"):
        Order([[7], [7]], 0, OrderConfig(), [1, 1e-6])


def test_the_order_of_runs_that_were_begun_before_stays():
    """A run that resumes sees what it would have seen; (data set, sample, position), noted on 2026-11-29."""
    order = Order([[7, 5, 9], [4, 6]], 0, OrderConfig(4, 2), [3.0, 1.0])
    draws = order.micro_batch(2, 0, 0, global_batch=12, micro_batch=12, world=1)
    assert [(draw.dataset, draw.sample, draw.position) for draw in draws] == [
        *((0, 11, 0), (0, 8, 2), (0, 3, 3), (0, 11, 4), (0, 4, 6), (0, 0, 7), (0, 7, 8), (0, 5, 9)),
        *((1, 7, 1), (1, 9, 5), (1, 8, 10), (1, 3, 11)),
    ]
