"""Policies, in words, for which blocks are computed again in the backward pass, and what they choose.

Imports no torch.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

from fd_scale.errors import BadInput

GIB = 2**30


Rule = Callable[[Sequence[int]], list[bool]]
"""What each block keeps in bytes, in forward order -> whether it is recomputed."""


def read_policy(policy: str) -> tuple[Rule, bool]:
    """Read the rule that a policy means, and whether it needs to know bytes.

    none         keep everything
    all          keep the input of each block alone
    every N      recompute every N-th block and keep the others
    N GiB        recompute as few blocks as the budget allows, the first ones (see `within_budget`)

    Raises:
        BadInput: it is none of these.
    """
    if policy in ("none", "all"):
        return partial(every, 0 if policy == "none" else 1), False
    if match := re.fullmatch(r"every ([1-9]\d*)", policy):
        return partial(every, int(match[1])), False
    if match := re.fullmatch(r"(\d+(?:\.\d*)?) ?GiB", policy):
        return partial(within_budget, budget=float(match[1]) * GIB), True
    raise BadInput(
        f"parallel.recompute {policy!r} is not a policy; write none, all, 'every 2', or a budget such as '20 GiB'"
    )


def every(step: int, kept: Sequence[int]) -> list[bool]:
    """Recompute every `step`-th block; 0: none."""
    return [step > 0 and number % step == step - 1 for number in range(len(kept))]


def within_budget(kept: Sequence[int], budget: float) -> list[bool]:
    """Recompute the first blocks, and of them as few as leave the others within the budget in bytes.

    The first, because a block of an early stage frees the most memory for the least computing. While a recomputed block
    is in its backward pass it needs what it would have kept, so the largest of them counts as well; all are recomputed
    where nothing fits. Not counted: the inputs of recomputed blocks (C of some 20 C numbers), and what is no block.
    """
    for recomputed in range(len(kept)):
        if max(kept[:recomputed], default=0) + sum(kept[recomputed:]) <= budget:
            return [number < recomputed for number in range(len(kept))]
    return [True] * len(kept)
