"""Initialisation parameter by parameter, from (seed, name) alone.

So a tensor gets the same values in whatever order, process or shard it is filled. Needed because a model that is built
sharded (`deepspeed.zero.Init`) loses, without an error, whatever a constructor fills in outside `Module.apply`.
The rules are the models' own: `Backbone.init_parameter`.
"""

import hashlib
from typing import Protocol

import torch
from torch import Tensor, nn


class HasRules(Protocol):
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None: ...


class Generator(torch.Generator):
    """Of one parameter. `run_seed` is for models whose constructors fill everything at once, as timm's do."""

    run_seed: int


def initialise(model: HasRules, name: str, parameter: Tensor, seed: int) -> None:
    """Fill `parameter` (whole, not a shard) in place by the model's rule for `name`.

    Raises LookupError when the model has no rule for it, RuntimeError when the rule left a part unfilled.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    generator.run_seed = seed
    with torch.no_grad():
        parameter.fill_(float("nan"))
        model.init_parameter(name, parameter, generator)
        if parameter.isnan().any():
            raise RuntimeError(f"the rule for {name} {tuple(parameter.shape)} left NaN in it")


def initialise_all(model: nn.Module, seed: int) -> None:
    """`initialise` every parameter of an unsharded model."""
    for name, parameter in model.named_parameters():
        initialise(model, name, parameter, seed)  # type: ignore[arg-type]


def constant(parameter: Tensor, value: float) -> None:
    parameter.fill_(value)


# Random values are drawn in fp32 on the CPU, so that another type or device gets the same ones, rounded.


def normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(std=std, generator=generator))


def truncated_normal(parameter: Tensor, std: float, generator: torch.Generator, *, cut: float) -> None:
    """A normal distribution of `std` before the tails beyond `cut` standard deviations are cut off."""
    values = torch.empty(parameter.shape, dtype=torch.float32)
    nn.init.trunc_normal_(values, std=std, a=-cut * std, b=cut * std, generator=generator)
    parameter.copy_(values)
