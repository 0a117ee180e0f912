"""AdamW and the parameter groups of the published recipes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fd_scale.parallel.engine import full_shape
from fd_scale.train.config import OptimConfig


def parameter_groups(model: Any, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Split parameters into decayed ones, and ones that are not decayed.

    The latter are 1-D parameters, biases, and what `model.no_weight_decay()` names.

    Args:
        layer_decay: below 1, two groups for each depth of `model.depths()`, whose rate is that of the head times
            `layer_decay` for each step away from it; `set_learning_rate` reads the group's `lr_scale`.
    """
    exempt = model.no_weight_decay()
    last = model.last_depth if layer_decay < 1 else 0
    depth_of = model.depths() if layer_decay < 1 else {}
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_kept = len(full_shape(parameter)) <= 1 or name.endswith(".bias") or name in exempt
        depth = depth_of.get(name, last)
        group = {
            "params": [],
            "weight_decay": 0.0 if is_kept else weight_decay,
            "lr_scale": layer_decay ** (last - depth),
        }
        groups.setdefault((depth, is_kept), group)["params"].append(parameter)
    return [group for _, group in sorted(groups.items())]


def adamw(config: OptimConfig) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """Make a maker of AdamW; the learning rate is set before every step."""
    return partial(torch.optim.AdamW, lr=0.0, betas=config.betas, eps=config.eps)
