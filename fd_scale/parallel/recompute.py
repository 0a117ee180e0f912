"""Activation checkpointing, applied to a backbone from outside.

Non-reentrant on purpose: the reentrant form and `deepspeed.checkpointing` silently drop the gradients of a block whose
input needs none (a frozen patch embedding). The state of torch's generators is neither kept nor put back: a block draws
nothing, the draws of drop path are among its arguments, so a recomputed block repeats itself bit for bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "all"]


def apply_recompute(backbone: nn.Module, policy: Recompute) -> None:
    """Recompute the activations of every block in the backward pass ("all"), or keep them ("none").

    `backbone` calls each block through its attribute `call_block(block, *tensors)`.
    """
    if policy == "all":
        call: Callable[..., Tensor] = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        backbone.call_block = call  # type: ignore[assignment]
