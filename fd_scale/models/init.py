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
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill `parameter`, fp32 on the CPU, in place."""


class Generator(torch.Generator):
    """Random generator of one parameter.

    `run_seed` is for models whose constructors fill everything at once, as timm's do.
    """

    run_seed: int


def initialise(model: HasRules, name: str, parameter: Tensor, seed: int) -> None:
    """Fill `parameter` (whole, not a shard) in place by the model's rule for `name`.

    The rule draws in fp32 on the CPU and the values are then rounded, because torch's generators give other values in
    another type or on another device. A rule that drew in the parameter's own type would make a model's start depend on
    how it is sharded: ZeRO-3 holds bf16 parameters where stages 1 and 2 are still filled in fp32.

    Raises LookupError when the model has no rule for it, RuntimeError when the rule left a part unfilled.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    generator.run_seed = seed
    with torch.no_grad():
        values = torch.full(parameter.shape, float("nan"), dtype=torch.float32, device="cpu")
        model.init_parameter(name, values, generator)
        if values.isnan().any():
            raise RuntimeError(f"the rule for {name} {tuple(parameter.shape)} left NaN in it")
        parameter.copy_(values)


def initialise_all(model: nn.Module, seed: int) -> None:
    """Initialise every parameter of an unsharded model, as `initialise` does."""
    for name, parameter in model.named_parameters():
        initialise(model, name, parameter, seed)  # type: ignore[arg-type]


def constant(parameter: Tensor, value: float) -> None:
    parameter.fill_(value)


def normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.normal_(std=std, generator=generator)


def truncated_normal(parameter: Tensor, std: float, generator: torch.Generator, *, cut: float) -> None:
    """Fill with a normal distribution of `std` before the tails beyond `cut` standard deviations are cut off."""
    nn.init.trunc_normal_(parameter, std=std, a=-cut * std, b=cut * std, generator=generator)
