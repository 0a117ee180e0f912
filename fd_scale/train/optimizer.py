"""AdamW and the parameter groups of the published recipes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from fd_scale.parallel.engine import full_shape


@dataclass(frozen=True)
class OptimConfig:
    """arXiv 2205.14141: AdamW 0.9/0.999, eps 1e-8, decay 0.05, gradient norm clipped at 3."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip: float = 3.0


def parameter_groups(model: Any, weight_decay: float) -> list[dict]:
    """Two groups: decayed, and not decayed (1-D parameters, biases, and what `model.no_weight_decay()` names)."""
    exempt = model.no_weight_decay()
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_kept = len(full_shape(parameter)) <= 1 or name.endswith(".bias") or name in exempt
        (kept if is_kept else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def adamw(config: OptimConfig) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """A maker of AdamW; the learning rate is set before every step."""
    return partial(torch.optim.AdamW, lr=0.0, betas=config.betas, eps=config.eps)
