"""Which sample stands where: pure functions of (seed, position), the same on every machine.

Now: each pass over the data is one permutation, the remainder that fills no global batch is left out, and a rank takes
a contiguous part of each global batch. A later change brings canonical streams, so that hosts read few shards.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fd_scale.errors import BadInput


class Draw(NamedTuple):
    """One place of one global batch, and the sample that stands there."""

    sample: int
    step: int
    position: int


def steps_in_pass(samples: int, global_batch: int) -> int:
    """Whole global batches in one pass.

    Raises:
        BadInput: not even one.
    """
    if samples < global_batch:
        raise BadInput(
            f"the data holds {samples} samples, fewer than one global batch of {global_batch}; "
            f"lower train.global_batch or pack more images"
        )
    return samples // global_batch


def micro_batch_draws(
    samples: int, seed: int, step: int, micro_step: int, rank: int, *, global_batch: int, micro_batch: int, world: int
) -> list[Draw]:
    """What one rank computes in one micro-batch of one step."""
    steps = steps_in_pass(samples, global_batch)
    order = permutation(samples, seed, step // steps)
    first = rank * (global_batch // world) + micro_step * micro_batch
    base = (step % steps) * global_batch
    return [Draw(int(order[base + i]), step, i) for i in range(first, first + micro_batch)]


@lru_cache(maxsize=2)
def permutation(samples: int, seed: int, data_pass: int) -> np.ndarray:
    """(samples,) every index once."""
    return np.random.default_rng((seed, data_pass)).permutation(samples)
