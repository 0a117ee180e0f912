"""Covering arrays: few rows in which every pair of values of two factors stands together.

Most faults of a configuration need one or two values together, so a pairwise array finds them with some sixty rows
where there are millions of combinations (D. R. Kuhn, R. N. Kacker, Y. Lei: NIST SP 800-142). The algorithm is that of
AETG (D. M. Cohen and others, IEEE TSE 1997): each row is the best of some candidates, and each candidate is filled in
factor by factor with the value that covers most. It is written here because two things are asked of it that packages
such as allpairspy leave out: which pairs no allowed row can hold, and a row for each of these as well.
"""

import random
from collections.abc import Callable, Container, Mapping, Sequence, Set
from itertools import combinations, product

Row = Mapping[str, str]
"""Factor -> value."""
Pair = tuple[tuple[str, str], tuple[str, str]]
Factors = Mapping[str, Sequence[str]]

CANDIDATES = 3


def pairs_of(row: Row) -> set[Pair]:
    return set(combinations(sorted(row.items()), 2))


def all_pairs(factors: Factors) -> list[Pair]:
    return [
        ((first, a), (second, b))
        for first, second in combinations(sorted(factors), 2)
        for a, b in product(factors[first], factors[second])
    ]


def covering_rows(
    factors: Factors, allowed: Callable[[Row], bool], bound: Set[str] = frozenset()
) -> tuple[list[Row], list[Pair]]:
    """The same rows each time, the first of which cover most.

    Args:
        allowed: asked also of rows in which values are still missing; what it refuses, no further value makes allowed.
        bound: factors that `allowed` looks at. They are filled in first, so that a dead end is met at once.

    Returns:
        Rows that together hold every pair that an allowed row can hold, and the pairs that none can.
    """
    shuffled = random.Random(0)
    missing = dict.fromkeys(all_pairs(factors))
    rows: list[Row] = []
    impossible: list[Pair] = []
    while missing:
        pair = next(iter(missing))
        found = [completed(dict(pair), factors, allowed, bound, missing, shuffled) for _ in range(CANDIDATES)]
        candidates = [row for row in found if row is not None]
        if not candidates:
            impossible.append(pair)
            del missing[pair]
            continue
        best = max(candidates, key=lambda row: len(pairs_of(row) & missing.keys()))
        rows.append({factor: best[factor] for factor in factors})
        for covered in pairs_of(best):
            missing.pop(covered, None)
    return rows, impossible


def completed(
    row: Row,
    factors: Factors,
    allowed: Callable[[Row], bool],
    bound: Set[str],
    wanted: Container[Pair],
    shuffled: random.Random,
) -> Row | None:
    """An allowed row with the values of `row` that holds many of the wanted pairs; None where there is none at all.

    Where several values hold as many, chance takes one, or rows would hold the first ones only.
    """
    if not allowed(row):
        return None
    left = [factor for factor in factors if factor not in row]
    if not left:
        return row
    factor = shuffled.choice([factor for factor in left if factor in bound] or left)

    def gain(value: str) -> int:
        new = (factor, value)
        return sum(((known, new) if known < new else (new, known)) in wanted for known in row.items())

    for value in sorted(shuffled.sample(factors[factor], len(factors[factor])), key=gain, reverse=True):
        whole = completed({**row, factor: value}, factors, allowed, bound, wanted, shuffled)
        if whole is not None:
            return whole
    return None


def name_of(row: Row) -> str:
    return " ".join(row.values())
