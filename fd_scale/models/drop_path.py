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
    """Residual sum that drops the branch of some samples in training.

    It is dropped for a share `rate` of the samples, and multiplied by 1 / (1 - rate) for the others, so that the mean
    is kept.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Tensor, branch: Tensor, draws: Tensor | None) -> Tensor:
        """Add a branch to tokens, both (B, ..., C), by draws (B,) that are uniform in [0, 1). Returns (B, ..., C).

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
    """List the rates of all blocks: 0 at the first, linearly to `last` at the last one."""
    return [last * block / max(depth - 1, 1) for block in range(depth)]


def draws_of_blocks(keys: Tensor | None, depth: int) -> list[Tensor | None]:
    """Draw (B, BRANCHES) numbers for each block in forward order, from keys (B,).

    They are drawn at once, because a launch on the device costs more than the few numbers.
    """
    if keys is None:
        return [None] * depth
    return [*uniform(keys, PURPOSE, depth * BRANCHES).split(BRANCHES, dim=1)]


def per_branch(draws: Tensor | None) -> tuple[Tensor | None, ...]:
    """Split the draws (B, BRANCHES) of a block into (B,) for each branch."""
    return (None,) * BRANCHES if draws is None else draws.unbind(dim=1)
