"""The configuration of the objective: what the student is asked to match (`target`, `normalise`), and the `loss`.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Literal

from fd_scale.fields import Count, NotNegative, Positive

Normalisation = Literal["whiten", "l2", "none", "standardise", "phi_s"]


@dataclass(frozen=True)
class TargetConfig:
    kind: Literal["feature_map", "gap", "logits"] = "feature_map"
    """What of the teacher is matched: its map of tokens, the mean of that map (`gap`), or the output of its own
    classifier or projection (`logits`). The student answers the last two from the mean of its own map."""
    normalise: Normalisation = "whiten"
    """How the scale of the teacher's tokens is removed. `whiten` is LayerNorm without parameters (arXiv 2205.14141),
    `l2` gives each token length 1, `none` leaves them as they are, `standardise` gives each channel mean 0 and variance
    1, and `phi_s` is PHI-S (arXiv 2410.01680)."""
    prefix: Literal["auto", "keep", "drop"] = "auto"
    """Whether CLS and register tokens are matched as well. `auto` keeps them where the student has as many as the
    teacher, as published."""
    resize: Literal["none", "bilinear"] = "none"
    """Whether the teacher's map is resized to the student's grid where the two differ; `none` refuses such a pair."""
    calibration_steps: Count = 1
    """Number of global batches from which `standardise` and `phi_s` take their first statistics, before step 1."""


@dataclass(frozen=True)
class LossConfig:
    kind: Literal["smooth_l1", "mse", "cosine"] = "smooth_l1"
    """The loss between prediction and target; `smooth_l1` is published (arXiv 2205.14141), `cosine` is 1 minus the
    cosine of the angle between two tokens."""
    beta: Positive = 2.0
    """The difference at which SmoothL1 turns from quadratic to linear; 2.0 is published (arXiv 2205.14141)."""
    prefix_weight: NotNegative = 1.0
    """Weight of a CLS or register token, where a token of the map has weight 1. 1 is published; 196 gives one CLS token
    as much weight as a map of 14x14 tokens."""
