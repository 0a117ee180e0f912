"""Stochastic depth (arXiv 1603.09382): a residual branch is left out for some samples during training.

The draws are handed in, one for each sample, block and branch, so that a decision belongs to the sample and not to the
process, micro-batch or recomputation that meets it (`fd_scale.keyed`).
"""

import torch
from torch import Tensor, nn

from fd_scale.keyed import purpose_number, uniform

BRANCHES = 2
"""Of a block: attention and MLP."""
PURPOSE = purpose_number("drop_path")


class DropPath(nn.Module):
    """tokens + branch; in training the branch is 0 for a share `rate` of the samples, and 1 / (1 - rate) times itself
    for the others, so that the mean is kept.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Tensor, branch: Tensor, draws: Tensor | None) -> Tensor:
        """tokens and branch (B, ..., C), draws (B,) uniform in [0, 1) -> (B, ..., C).

        Raises:
            ValueError: training without draws.
        """
        if not self.training or self.rate == 0:
            return tokens + branch
        if draws is None:
            raise ValueError(
                f"drop path (here {self.rate:.2g}) needs a key for each sample in training: call the model with "
                "`keys=fd_scale.keyed.sample_keys(seed, step, positions)`, build it with drop_path=0, or call eval()"
            )
        kept = (draws >= self.rate).to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))  # (B, 1, ..., 1)
        # Mask, scale and sum in one pass over the tokens.
        return torch.addcmul(tokens, branch, kept, value=1 / (1 - self.rate))


def drop_path_rates(last: float, depth: int) -> list[float]:
    """From 0 at the first block, linearly, to `last` at the last one."""
    return [last * block / max(depth - 1, 1) for block in range(depth)]


def draws_of_blocks(keys: Tensor | None, depth: int) -> list[Tensor | None]:
    """keys (B,) -> (B, BRANCHES) for each block in forward order. All at once, because a launch on the device costs
    more than the few numbers.
    """
    if keys is None:
        return [None] * depth
    return [*uniform(keys, PURPOSE, depth * BRANCHES).split(BRANCHES, dim=1)]


def per_branch(draws: Tensor | None) -> tuple[Tensor | None, ...]:
    """(B, BRANCHES) draws of a block -> (B,) for each branch."""
    return (None,) * BRANCHES if draws is None else draws.unbind(dim=1)
