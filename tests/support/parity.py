"""Numbers of published code, made by `tools/reference`, and how far ours are from them; apart from conftest.py,
because every folder's conftest answers to that name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from support.helpers import REPOSITORY

REFERENCE = REPOSITORY / "tests" / "reference"
EXACT = 1e-9
TIMES = 4
"""Ours in fp32 may be this many times further from fp64 than the published code in fp32 is."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """One case: `facts` of the JSON, `tensors` of the safetensors."""

    facts: dict[str, Any]
    tensors: Tensors

    def part(self, name: str) -> Tensors:
        """Those called `name/...`, without that."""
        return {key.removeprefix(f"{name}/"): t for key, t in self.tensors.items() if key.startswith(f"{name}/")}


def published(case: str) -> Published:
    return Published(json.loads((REFERENCE / f"{case}.json").read_text()), load_file(REFERENCE / f"{case}.safetensors"))


def groups_by_name(recipe: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(scale of the learning rate, weight decay) of every parameter, by our name inside the model that has it."""
    return {
        name.replace(".rpe_mlp.", ".cpb_mlp."): (group["lr_scale"], group["weight_decay"])
        for group in recipe["groups"]
        for name in group["names"]
    }


def largest_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference in each tensor over its largest number, of the worst tensor."""
    assert set(found) == set(wanted)
    largest = 0.0
    for name, tensor in wanted.items():
        difference = (found[name].double() - tensor).abs().max().item()
        largest = max(largest, difference / tensor.abs().max().item() if difference else 0.0)
    return largest


def error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The norm of the difference over the norm of the wanted, all tensors as one vector."""
    assert set(found) == set(wanted)

    def flat(tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].flatten().double() for name in sorted(wanted)])

    return float((flat(found) - flat(wanted)).norm() / flat(wanted).norm())


def row(case: str, exact: Mapping[str, float], ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    """A line of the table in docs/benchmarks.md: `pytest -s`."""
    fp64 = ", ".join(f"{name} {value:.1e}" for name, value in exact.items())
    fp32 = ", ".join(f"{name} {value:.1e} : {theirs[name]:.1e}" for name, value in ours.items())
    print(f"\n{case} | fp64 {fp64} | fp32, ours : theirs, {fp32}")
