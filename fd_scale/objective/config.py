"""The configuration of the objective: what the student is asked to match (`target`, `normalise`), and the `loss`.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Literal

from fd_scale.fields import Count, NotNegative, Positive

Normalisation = Literal["whiten", "l2", "none", "standardise", "phi_s"]


@dataclass(frozen=True)
class TargetConfig:
    """What the student is asked to match; the same for all teachers."""

    kind: Literal["feature_map", "gap", "logits"] = "feature_map"
    """The teacher's token map; the mean of its map; or what its own classifier or projection makes of an image. The
    student answers the last two from the mean of its map."""
    normalise: Normalisation = "whiten"
    prefix: Literal["auto", "keep", "drop"] = "auto"
    """CLS and register tokens: "auto" keeps them when the student has as many (published: every token counts)."""
    resize: Literal["none", "bilinear"] = "none"
    """Bring the teacher's map to the student's grid, bilinear (antialiased where it shrinks), or refuse other grids."""
    calibration_steps: Count = 1
    """Global batches that `standardise` and `phi_s` take their first statistics from, before the first step."""


@dataclass(frozen=True)
class LossConfig:
    kind: Literal["smooth_l1", "mse", "cosine"] = "smooth_l1"
    """smooth_l1 in arXiv 2205.14141; cosine is 1 - cos of the angle of each token."""
    beta: Positive = 2.0
    """Of SmoothL1: quadratic below, linear above; 2.0 in arXiv 2205.14141."""
    prefix_weight: NotNegative = 1.0
    """What a prefix token (CLS, register) counts, where a map token counts 1. 1 is published: every token counts the
    same; 196 gives a CLS token as much as a map of 14x14."""
