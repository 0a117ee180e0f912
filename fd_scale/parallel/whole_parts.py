"""Parts of a model that ZeRO-3 leaves alone in the forward pass: heads that do not run alike on every rank.

Under ZeRO-3 every module that runs is a collective. A detector's heads run or not as the image has it (no positives, no
masks), so ranks would wait for different modules: DeepSpeed refuses ("disagreement on list length") or hangs. The
parameters of such parts stay gathered between steps, like its small persistent ones, and their modules run without its
hooks; gradients and optimizer states are sharded as all others.

Gradients are reduced in the order in which they come, bucket by bucket. `touch` gives every parameter of the parts one
in every step, and the bucket must hold the parts whole, so that no bucket ends amid an order that differs.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class WholeParts:
    """Parts of a model that ZeRO-3 does not shard in the forward pass.

    Make it before the engine, and call `free` on the engine. It does nothing below stage 3.
    """

    def __init__(self, parts: Iterable[nn.Module]):
        self.modules = [module for part in parts for module in part.modules()]
        self.parameters: list[Any] = [p for part in parts for p in part.parameters() if p.requires_grad]
        self._hooks_before = [{name: set(getattr(module, name)) for name in HOOKS} for module in self.modules]

    def fit_bucket(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the DeepSpeed configuration with a bucket that holds all of the parts."""
        zero = dict(config["zero_optimization"])
        least = sum(parameter.numel() for parameter in self.parameters)
        zero["reduce_bucket_size"] = max(int(zero.get("reduce_bucket_size", 500_000_000)), least)
        return {**config, "zero_optimization": zero}

    def free(self, engine: Any) -> None:
        """Remove ZeRO-3's hooks from the parts, and keep their parameters gathered. Collective."""
        zero = engine.optimizer
        if not self.parameters or not hasattr(self.parameters[0], "ds_id"):
            return
        for module, before in zip(self.modules, self._hooks_before, strict=True):
            for name in HOOKS:
                hooks = getattr(module, name)
                for handle in set(hooks) - before[name]:
                    del hooks[handle]
        for parameter in self.parameters:
            if not parameter.ds_persist:
                parameter.ds_persist = True
                zero.persistent_parameters.append(parameter)
        self.parameters[0].all_gather(self.parameters)

    def touch(self, loss: Tensor) -> Tensor:
        """Return the loss with an influence of 0 by every parameter of the parts."""
        if not self.parameters:
            return loss
        return loss + 0 * torch.stack([parameter.reshape(-1)[0] for parameter in self.parameters]).sum().to(loss.dtype)
