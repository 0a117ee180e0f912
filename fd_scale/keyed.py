"""Random numbers of a sample, keyed by (seed, step, position in the global batch) instead of drawn from a state.

So they are the same whichever rank, worker or micro-batch computes the sample, in the forward pass and in its
recomputation, before and after a resume. Integers until the last operation, which is exact: every device gives the
same bits. For speed and reproducibility, not for secrets. Crop and flip are keyed alike, by numpy (`data.view`).

Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which can jump to any of its outputs; here as a tree, in which
each output is the state of a generator of its own: seed -> step -> position -> purpose -> number of the draw.

A leaf, as `errors` is: every package may import it, it imports nothing else of the package.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def sample_keys(seed: int, step: int, positions: Sequence[int] | Tensor) -> Tensor:
    """Make one key for each sample of a micro-batch, on the device of `positions`.

    Args:
        positions: (B,) in the global batch of this step.

    Returns:
        (B,) int64; within a step no two are equal.
    """
    key = torch.tensor(0)
    for number in (torch.tensor(_int64(seed)), torch.tensor(step), torch.as_tensor(positions, dtype=torch.int64)):
        key = splitmix64(key, number)
    return key


def uniform(keys: Tensor, purpose: int, count: int) -> Tensor:
    """Draw `count` uniform numbers for each sample.

    They are independent between samples, purposes and columns; a column does not depend on how many there are.

    Args:
        keys: (B,) int64 of `sample_keys`.
        purpose: of `purpose_number`. Two users of one purpose get the same draws.

    Returns:
        (B, count) fp32 in [0, 1), multiples of 2**-24 on the device of `keys`.
    """
    states = splitmix64(keys, torch.tensor(purpose))
    words = splitmix64(states[:, None], torch.arange(count, device=keys.device))  # (B, count)
    return _shift(words, 40).float() * 2.0**-24  # as many bits as fp32 holds exactly


def purpose_number(name: str) -> int:
    """Make a number for what draws decide, so that no two uses need to agree on theirs.

    Call it once, at import.
    """
    return _int64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def splitmix64(state: Tensor, number: Tensor) -> Tensor:
    """Compute output `number`, from 0, of the generator at `state`.

    int64, which torch lets wrap around, stands for uint64.
    """
    word = state + (number + 1) * GAMMA
    word = (word ^ _shift(word, 30)) * MIX_1
    word = (word ^ _shift(word, 27)) * MIX_2
    return word ^ _shift(word, 31)


def _shift(words: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros: torch's own shift copies the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _int64(value: int) -> int:
    """The int64 with the last 64 bits of an integer of any size."""
    return (value + 2**63) % 2**64 - 2**63


GAMMA, MIX_1, MIX_2 = (_int64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
