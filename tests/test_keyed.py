"""A sample's random numbers: a pure function of its position, bit for bit SplitMix64, and as good as chance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fd_scale.keyed import purpose_number, sample_keys, splitmix64, uniform

MANY = 100_000
CELLS = 256
PURPOSE = purpose_number("a test")
WORD = 2**64


def in_python(state: int, number: int) -> int:
    word = (state + (number + 1) * 0x9E3779B97F4A7C15) % WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def test_it_is_the_published_generator():
    """The first outputs from state 1234567, as they are commonly printed."""
    outputs = splitmix64(torch.tensor(1234567), torch.arange(5)).tolist()
    assert [word % WORD for word in outputs] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(int64, int64), min_size=1, max_size=70))
def test_torch_wraps_around_as_integers_modulo_2_to_the_64(words):
    """In single elements and in whole vectors, of which the processor treats several at once."""
    states, numbers = (torch.tensor(column) for column in zip(*words, strict=True))
    expected = [in_python(state % WORD, number % WORD) for state, number in words]
    assert [word % WORD for word in splitmix64(states, numbers).tolist()] == expected


@given(st.integers(0, 2**70), st.integers(0, 2**40), st.permutations(range(12)), st.integers(0, 12))
def test_a_draw_depends_on_its_place_alone(seed, step, order, cut):
    whole = uniform(sample_keys(seed, step, range(12)), PURPOSE, 5)
    parts = [order[:cut], order[cut:]]
    assert torch.equal(torch.cat([uniform(sample_keys(seed, step, p), PURPOSE, 5) for p in parts]), whole[order])


def test_further_columns_leave_the_first_ones_alone():
    keys = sample_keys(0, 0, range(8))
    assert torch.equal(uniform(keys, PURPOSE, 2), uniform(keys, PURPOSE, 7)[:, :2])


def test_torchs_generators_neither_matter_nor_move():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = uniform(sample_keys(0, 0, range(8)), PURPOSE, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(uniform(sample_keys(0, 0, range(8)), PURPOSE, 2), draws)


def test_draws_are_what_fp32_holds_exactly():
    draws = uniform(sample_keys(0, 0, range(MANY)), PURPOSE, 10)
    assert draws.dtype == torch.float32
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    assert torch.equal((draws * 2**24).frac(), torch.zeros_like(draws))


def test_no_two_samples_share_a_key():
    keys = torch.cat([sample_keys(seed, step, range(500)) for seed in range(10) for step in range(100)])
    assert len(keys.unique()) == len(keys)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_device_gives_the_same_bits():
    positions = torch.arange(MANY)
    keys, on_device = sample_keys(7, 123, positions), sample_keys(7, 123, positions.cuda())
    assert torch.equal(on_device.cpu(), keys)
    assert torch.equal(uniform(on_device, PURPOSE, 9).cpu(), uniform(keys, PURPOSE, 9))


def keys_of(varying: str, count: int) -> Tensor:
    """Keys of positions that differ in one thing alone."""
    if varying == "position":
        return sample_keys(0, 0, range(count))
    # What `sample_keys` does one position at a time, for many at once.
    zero, numbers = torch.tensor(0), torch.arange(count)
    seed, step = (numbers, zero) if varying == "seed" else (zero, numbers)
    return splitmix64(splitmix64(splitmix64(zero, seed), step), zero)


@pytest.mark.parametrize("varying", ["seed", "step"])
def test_the_short_cut_of_these_tests_is_what_sample_keys_computes(varying):
    keys = keys_of(varying, 20)
    assert [int(sample_keys(**{"seed": 0, "step": 0, varying: n}, positions=[0])) for n in range(20)] == keys.tolist()


def series(varying: str) -> Tensor:
    """(MANY,) draws whose positions differ in one thing alone."""
    if varying == "column":
        return uniform(sample_keys(0, 0, [0]), PURPOSE, MANY)[0]
    return uniform(keys_of(varying, MANY), PURPOSE, 1)[:, 0]


def evenness(cells: Tensor) -> float:
    """Standard deviations by which the chi-square of (N,) cell numbers below CELLS is off that of chance."""
    expected = len(cells) / CELLS
    chi_square = ((torch.bincount(cells, minlength=CELLS) - expected) ** 2 / expected).sum()
    return (float(chi_square) - (CELLS - 1)) / math.sqrt(2 * (CELLS - 1))


def cells_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """The cell of each pair of draws on a grid of 16 x 16: uneven if one says anything of the other."""
    return (first * 16).long() * 16 + (second * 16).long()


EVEN = 4.5  # chance goes further about three times in 100,000; all draws are fixed, so what passes goes on passing


@pytest.mark.parametrize("varying", ["seed", "step", "position", "column"])
def test_draws_are_uniform(varying):
    assert abs(evenness((series(varying) * CELLS).long())) < EVEN


@pytest.mark.parametrize("varying", ["seed", "step", "position", "column"])
@pytest.mark.parametrize("distance", [1, 2, 64])
def test_a_draw_says_nothing_of_its_neighbours(varying, distance):
    draws = series(varying)
    assert abs(evenness(cells_of_pairs(draws[:-distance], draws[distance:]))) < EVEN


def test_purposes_seeds_and_steps_say_nothing_of_each_other():
    keys = sample_keys(0, 0, range(MANY))
    draws = uniform(keys, PURPOSE, 1)[:, 0]
    others = {
        "purpose": uniform(keys, purpose_number("another"), 1),
        "seed": uniform(sample_keys(1, 0, range(MANY)), PURPOSE, 1),
        "step": uniform(sample_keys(0, 1, range(MANY)), PURPOSE, 1),
        "column": uniform(keys, PURPOSE, 2)[:, 1:],
    }
    off = {name: evenness(cells_of_pairs(draws, other[:, 0])) for name, other in others.items()}
    assert max(map(abs, off.values())) < EVEN, off
