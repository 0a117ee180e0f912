"""The rows of the matrix hold what they promise, and so does the way in which they are chosen."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrix.pairs import Row, all_pairs, covering_rows, pairs_of
from matrix.rows import FACTORS, REFUSALS, matrix, refusals_of, spread


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.sets(st.tuples(*[st.integers(0, 3)] * 3), max_size=12))
def test_every_pair_that_an_allowed_row_can_hold_stands_in_an_allowed_row_and_the_others_are_named(sizes, forbidden):
    factors = {f"factor{number}": [f"{value}" for value in range(size)] for number, size in enumerate(sizes)}
    bound = list(factors)[:3]

    def allowed(row: Row) -> bool:
        return not any(
            all(row.get(factor) == f"{value}" for factor, value in zip(bound, values, strict=False))
            for values in forbidden
        )

    rows, impossible = covering_rows(factors, allowed, set(bound))
    assert all(allowed(row) and row.keys() == factors.keys() for row in rows)
    covered = set().union(*map(pairs_of, rows)) if rows else set()
    every_row = (dict(zip(factors, values, strict=True)) for values in product(*factors.values()))
    possible = set().union(*(pairs_of(row) for row in every_row if allowed(row)))
    assert covered == possible
    assert set(impossible) == set(all_pairs(factors)) - possible


def test_few_rows_are_enough():
    """Three factors of four values have sixteen rows at least, ten of two six; nobody needs many more."""
    four = {name: list("abcd") for name in ("x", "y", "z")}
    two = {f"{number}": list("ab") for number in range(10)}
    assert len(covering_rows(four, lambda row: True)[0]) <= 24
    assert len(covering_rows(two, lambda row: True)[0]) <= 12


def test_every_pair_of_values_of_the_configuration_stands_in_a_row_that_trains_or_can_only_be_refused():
    trained, refused = matrix()
    assert not any(refusals_of(row) for row in trained.values())
    assert all(len(refusals_of(row)) == 1 for row in refused.values())
    covered, refused_pairs = (set().union(*map(pairs_of, rows.values())) for rows in (trained, refused))
    assert covered | refused_pairs == set(all_pairs(FACTORS))
    assert set(spread(trained, 8)) <= trained.keys()


@pytest.mark.parametrize("reason", REFUSALS, ids=lambda reason: "-".join(reason.factors))
def test_every_reason_to_refuse_has_a_row(reason):
    assert any(refusals_of(row) == [reason] for row in matrix()[1].values())
