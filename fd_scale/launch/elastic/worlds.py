"""Which numbers of ranks a job can have, and which hosts make the largest of them. Pure functions.

A world is possible where its ranks share the global batch evenly: the same images make a step then, the learning rate
stays, and only the accumulation changes (`fd_scale.batch_plan`). Ranks are given to hosts in the order of the hostfile,
each host being filled before the next; the last one may get fewer than it has slots.
"""

import re
from collections.abc import Mapping, Sequence

from fd_scale.batch_plan import plan_batch
from fd_scale.errors import BadInput

BOUNDS = re.compile(r"([1-9][0-9]{0,5}):([1-9][0-9]{0,5})")


def read_bounds(text: str) -> range:
    """The worlds between MIN and MAX ranks, of `MIN:MAX`. Raises BadInput."""
    found = BOUNDS.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise BadInput(f"--elastic {text!r} is not of the form MIN:MAX, two numbers of ranks, for example 8:32")
    return range(int(found[1]), int(found[2]) + 1)


def possible_worlds(bounds: range, slots: int, global_batch: int, micro_batch: int) -> tuple[list[int], list[int]]:
    """Worlds between the bounds that the hosts have slots for: those that share the batch, and those that are skipped.

    Raises:
        BadInput: there is none of the first.
    """
    if bounds[0] > slots:
        raise BadInput(f"--elastic {_shown(bounds)}: the hostfile has {slots} slots in all; lower MIN, or add hosts")
    worlds = [world for world in bounds if world <= slots]
    possible = [world for world in worlds if global_batch % (micro_batch * world) == 0]
    if not possible:
        try:
            plan_batch(global_batch, micro_batch, worlds[-1])
        except BadInput as error:
            raise BadInput(f"--elastic {_shown(bounds)}: no world fits; for the largest: {error}") from None
    return possible, [world for world in worlds if world not in set(possible)]


def largest_world(slots: Mapping[str, int], possible: Sequence[int]) -> dict[str, int]:
    """Ranks of each host that takes part, of hosts with so many slots; empty where no possible world is so small."""
    left = max((world for world in possible if world <= sum(slots.values())), default=0)
    ranks: dict[str, int] = {}
    for host, most in slots.items():
        if left:
            ranks[host] = min(most, left)
            left -= ranks[host]
    return ranks


def in_words(numbers: Sequence[int]) -> str:
    """`1-4, 8 and 16` of ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [word for run in runs for word in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def worlds_line(possible: Sequence[int], skipped: Sequence[int], global_batch: int, micro_batch: int) -> str:
    """Line that says at the start which worlds are possible."""
    line = f"elastic: worlds of {in_words(possible)} ranks are possible"
    if not skipped:
        return line
    because = f"train.global_batch {global_batch} is not divisible by ranks x train.micro_batch {micro_batch}"
    return f"{line}; {in_words(skipped)} skipped, because {because}"


def _shown(bounds: range) -> str:
    return f"{bounds[0]}:{bounds[-1]}"
