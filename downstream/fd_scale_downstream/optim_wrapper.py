"""The parts of MMEngine's `optim_wrapper` that the engine takes over when it trains in shards."""

from dataclasses import dataclass

from fd_scale.errors import BadInput
from fd_scale.fields import Range

CLIP = Range(0, 1_000_000)
"""Norms of a gradient to clip at; 0: it is not clipped."""


@dataclass(frozen=True)
class Owned:
    """An `optim_wrapper` config taken apart: what the engine does of it (`clip`), and the rest."""

    optim_wrapper: dict
    clip: float


def of_the_engine(optim_wrapper: dict) -> Owned:
    """Take an `optim_wrapper` config apart.

    Raises:
        BadInput: it asks for something that the engine, or another key, does.
    """
    rest = dict(optim_wrapper)
    if rest.pop("type", "OptimWrapper") != "OptimWrapper":
        raise BadInput('optim_wrapper.type must be "OptimWrapper"; precision is strategy.parallel.precision')
    if rest.pop("accumulative_counts", 1) != 1:
        raise BadInput("optim_wrapper.accumulative_counts: use strategy.accumulation, which cuts a batch instead")
    clip = dict(rest.pop("clip_grad", None) or {"max_norm": 0.0})
    if clip.pop("norm_type", 2) != 2 or set(clip) != {"max_norm"}:
        raise BadInput(f"optim_wrapper.clip_grad: the engine clips the 2-norm by max_norm, and has no {clip}")
    if clip["max_norm"] not in CLIP:
        raise BadInput(f"optim_wrapper.clip_grad.max_norm={clip['max_norm']!r}: {CLIP.advice(whole=False)}")
    return Owned({"type": "OptimWrapper", **rest}, float(clip["max_norm"]))
