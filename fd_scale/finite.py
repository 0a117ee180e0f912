"""Whether tensors hold NaN or infinity, asked where weights are read and before they are saved.

A leaf, as `errors` is: every package may import it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether every number is finite.

    It takes one pass and no memory for a mask, where all is as it should be.
    """
    if not values.dtype.is_floating_point or not values.numel():
        return True
    # A sum of what is finite may overflow, and then each number is looked at.
    total = values.sum(dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(values.isfinite().all())


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """List the names of tensors that hold NaN or infinity."""
    return [name for name, values in tensors if not all_finite(values)]
