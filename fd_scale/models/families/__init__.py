"""The families of students. A new one is the module of its network, one with its record, and a name in FAMILIES.

A record (`Family`) has the names, the keys, how a student is built, how published weights fit, the final norm, and what
teachers and plans need. Everyone else asks the record, and nobody asks "is it a SwinV2?".
"""

import difflib

from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.families.family import KEYS_OF_SOME, Family
from fd_scale.models.families.from_timm import TIMM
from fd_scale.models.families.swin_v2 import SWIN_V2
from fd_scale.models.families.vit import VIT
from fd_scale.models.weights.published import PublishedWeights

__all__ = [
    "FAMILIES",
    "KEYS_OF_SOME",
    "Family",
    "family_of",
    "family_of_model",
    "names",
    "published_families",
    "published_weights",
    "takers_of",
]

FAMILIES: tuple[Family, ...] = (SWIN_V2, VIT, TIMM)


def names() -> list[str]:
    """List the names of all students but timm's."""
    return [name for family in FAMILIES for name in family.sizes]


def family_of(name: str) -> Family:
    """Find the family of a student's name. Raises BadInput."""
    found = next((family for family in FAMILIES if family.has(name)), None)
    if found is None:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4) or names()
        raise BadInput(f"unknown student {name!r}; did you mean {', '.join(near)}? timm's are written timm:NAME")
    return found


def takers_of(key: str) -> list[str]:
    """List the titles of this library's families that take a key of `StudentConfig`."""
    return [family.title for family in FAMILIES if family.sizes and key in family.keys]


def family_of_model(model: nn.Module) -> Family | None:
    return next((family for family in FAMILIES if isinstance(model, family.model)), None)


def published_families() -> list[tuple[Family, PublishedWeights]]:
    """List the families that published formats are fitted to, and how."""
    return [(family, family.weights) for family in FAMILIES if isinstance(family.weights, PublishedWeights)]


def published_weights(model: nn.Module) -> PublishedWeights:
    """Find how published formats are fitted to a model. Raises BadInput: they are not."""
    family = family_of_model(model)
    if family is None or not isinstance(family.weights, PublishedWeights):
        titles = " and ".join(family.title for family, _ in published_families())
        raise BadInput(f"weights are fitted to the students {titles}, not to a {type(model).__name__}")
    return family.weights
