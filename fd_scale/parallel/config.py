"""The configuration of how a model is spread over ranks, and of what it is computed in.

Imports no torch, so that a configuration is read and refused at once; `deepspeed_config` makes DeepSpeed's of it.
"""

from dataclasses import dataclass
from typing import Literal

from fd_scale.fields import Minutes
from fd_scale.parallel.recompute_policy import read_policy


@dataclass(frozen=True)
class ParallelConfig:
    deepspeed: str = "deepspeed_configs/zero3.json"
    precision: Literal["fp32", "bf16"] = "bf16"
    recompute: str = "none"
    """Which blocks are computed again in the backward pass: none, all, `every 2`, or what fits into e.g. `20 GiB`. All
    costs about a third more time; `fd-scale plan` says what each takes of memory."""
    timeout_minutes: Minutes = 10.0
    """A collective that takes longer has lost a peer."""

    def __post_init__(self) -> None:
        read_policy(self.recompute)
