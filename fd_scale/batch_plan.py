"""The arithmetic of a global batch: how ranks and micro-batches share it. A leaf, for data, engine and loop alike."""

import math
from dataclasses import dataclass

from fd_scale.errors import BadInput


@dataclass(frozen=True)
class BatchPlan:
    """Cut of one global batch, rank by rank, then micro-batch by micro-batch."""

    global_batch: int
    micro_batch: int
    world: int

    @property
    def accumulation(self) -> int:
        """Number of micro-batches of a rank in one optimizer step."""
        return self.global_batch // (self.micro_batch * self.world)


def plan_batch(global_batch: int, micro_batch: int, world: int) -> BatchPlan:
    """Cut a global batch evenly over ranks and micro-batches.

    Raises:
        BadInput: it does not; the line names the nearest micro-batch that does.
    """
    if global_batch % (micro_batch * world):
        fitting = [] if global_batch % world else _divisors(global_batch // world)
        advice = (
            f"try train.micro_batch={min(fitting, key=lambda m: abs(m - micro_batch))}"
            if fitting
            else f"try train.global_batch={max(1, round(global_batch / world)) * world}"
        )
        raise BadInput(
            f"train.global_batch {global_batch} is not divisible by {world} ranks x train.micro_batch {micro_batch}; "
            f"{advice}"
        )
    return BatchPlan(global_batch, micro_batch, world)


def _divisors(number: int) -> list[int]:
    below = [m for m in range(1, math.isqrt(number) + 1) if number % m == 0]
    return sorted({*below, *(number // m for m in below)})
