"""Activation checkpointing, applied to a backbone from outside.

Non-reentrant on purpose: the reentrant form and `deepspeed.checkpointing` silently drop the gradients of a block whose
input needs none (a frozen patch embedding). The state of torch's generators is neither kept nor put back: a block draws
nothing, the draws of drop path are among its arguments, so a recomputed block repeats itself bit for bit.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fd_scale.errors import BadInput
from fd_scale.parallel.recompute_policy import read_policy


def apply_recompute(backbone: nn.Module, policy: str) -> None:
    """Recompute the activations of some blocks in the backward pass. Raises BadInput, see `read_policy`.

    `backbone` calls each block through its attribute `call_block(block, *tensors)`. For a budget it says by
    `activation_bytes(shape, element_size)` what each block keeps, given the shape of the first block's tokens; the
    choice is made anew in every forward pass, so images may change their size.
    """
    rule, needs_bytes = read_policy(policy)
    blocks = backbone.blocks()  # type: ignore[operator]
    if needs_bytes and not hasattr(backbone, "activation_bytes"):
        raise BadInput(
            f"parallel.recompute {policy!r}: {type(backbone).__name__} does not say what its blocks keep; "
            "use 'all' or for example 'every 2'"
        )
    if policy == "none":
        return
    numbers = {id(block): number for number, block in enumerate(blocks)}
    recomputed = [True] * len(blocks) if needs_bytes else rule([0] * len(blocks))

    def call_block(block: nn.Module, tokens: Tensor, *arguments: object) -> Tensor:
        number = numbers[id(block)]
        if needs_bytes and number == 0:
            estimate = backbone.activation_bytes(tuple(tokens.shape), tokens.element_size())  # type: ignore[operator]
            recomputed[:] = rule(estimate)
        if not recomputed[number]:
            return block(tokens, *arguments)
        return checkpoint(block, tokens, *arguments, use_reentrant=False, preserve_rng_state=False)

    backbone.call_block = call_block  # type: ignore[assignment]
