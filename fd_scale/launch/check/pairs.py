"""Which pairs of hosts are measured, and what is made of the figures; pure functions."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from fd_scale.launch.check.findings import Finding

ALL_UP_TO = 16
"""Hosts of which every pair is measured. Of more, each host is measured with so many others less one."""
SLOW_SHARE = 0.5
"""Of what is usual, below which a pair is slow."""
LEAST = 0.05
"""GB/s: less than half of gigabit Ethernet is a fault of a link, not a link."""

Pair = tuple[int, int]


def tournament(hosts: int) -> list[list[Pair]]:
    """Rounds of disjoint pairs in which everyone meets everyone once, by the circle method: `hosts` - 1 rounds, or
    `hosts` where the number is odd and one host has a rest in each."""
    seats: list[int | None] = [*range(hosts), *([None] if hosts % 2 else [])]
    rounds = []
    for _ in range(len(seats) - 1):
        facing = zip(seats[: len(seats) // 2], reversed(seats[len(seats) // 2 :]), strict=True)
        rounds.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return rounds if hosts > 1 else []


def sample(rounds: Sequence[list[Pair]], most: int = ALL_UP_TO) -> list[list[Pair]]:
    """All rounds, or `most` - 1 of them, evenly spaced; every host is in nearly all of them."""
    if len(rounds) < most + 1:
        return list(rounds)
    return [rounds[number * len(rounds) // (most - 1)] for number in range(most - 1)]


def judged(figures: Mapping[Pair, float | str], names: Sequence[str], backend: str) -> Iterator[Finding]:
    """`figures`: GB/s of each pair, or why there is none.

    What is usual is the median over the hosts of the best that each has. A median of the pairs would already be that of
    a slow host where there are three.
    """
    numbers = {pair: figure for pair, figure in figures.items() if isinstance(figure, float)}
    best: dict[int, float] = {}
    for pair, number in numbers.items():
        for host in pair:
            best[host] = max(best.get(host, 0.0), number)
    median = statistics.median(best.values()) if best else 0.0
    for pair, figure in figures.items():
        where = f"{names[pair[0]]}-{names[pair[1]]}"
        if isinstance(figure, str):
            yield Finding("bandwidth", where, "wrong", f"no all-reduce: {figure}", _REPAIR[backend])
            continue
        value, fix = f"{figure:.3g} GB/s all-reduce ({backend})", ""
        if figure < LEAST:
            value += f", less than {LEAST:g} GB/s"
            fix = _REPAIR[backend]
        elif figure < SLOW_SHARE * median:
            value += f", where {median:.3g} GB/s is usual here"
            fix = _REPAIR[backend]
        yield Finding("bandwidth", where, "wrong" if fix else "ok", value, fix, figure, f"GB/s all-reduce ({backend})")


_REPAIR = {
    "gloo": "look at cable, switch and speed of the link (ethtool); GLOO_SOCKET_IFNAME names the interface to use, and "
    "firewalls must let all ports pass between the hosts",
    "nccl": "look at cable, switch and speed of the link; NCCL_SOCKET_IFNAME and NCCL_IB_HCA name what to use, "
    "NCCL_DEBUG=INFO says what it chose, and firewalls must let all ports pass between the hosts",
}
