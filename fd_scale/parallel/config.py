"""The configuration of how a model is spread over ranks, and of what it is computed in.

Imports no torch, so that a configuration is read and refused at once; `deepspeed_config` makes DeepSpeed's of it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fd_scale.fields import MayDiffer, Minutes
from fd_scale.parallel.recompute_policy import read_policy


@dataclass(frozen=True)
class ParallelConfig:
    deepspeed: Annotated[str, MayDiffer()] = "deepspeed_configs/zero3.json"
    """DeepSpeed's JSON file: the ZeRO stage, buckets, overlap and offload, and nothing that this YAML says. A relative
    path is looked up in the current folder, then among the shipped ones."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """The number format of forward and backward pass; the optimizer always works in fp32."""
    recompute: Annotated[str, MayDiffer()] = "none"
    """Blocks that are computed again in the backward pass, to save memory: `none`, `all`, `every 2`, or as few as fit
    what the others keep into a budget such as `20 GiB`. `all` costs about a third more time; `fd-scale plan` says what
    each takes of memory."""
    timeout_minutes: Annotated[Minutes, MayDiffer()] = 10.0
    """Time after which a collective operation gives up, because another rank is lost."""

    def __post_init__(self) -> None:
        read_policy(self.recompute)
