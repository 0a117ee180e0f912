"""The configuration of what measures a model: kNN and the linear probe, as verbs and during training.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Literal

from fd_scale.data.config import EvaluationView
from fd_scale.fields import Count, Minutes, NotNegative, Pixels, Positive, Rate, Seed, Workers

Pool = Literal["mean", "prefix"]


@dataclass(frozen=True)
class ProbeConfig:
    """What kNN and the linear probe look at."""

    model: str
    """A file that `fd-scale export` wrote, or a teacher: timm:NAME, timm:NAME@PATH, file:PATH or demo."""
    train: str
    validation: str
    """Folders of labelled shards."""
    image_size: Pixels = 224
    view: EvaluationView = EvaluationView()
    pool: Pool = "mean"
    batch: Count = 64
    """Images that a rank computes at a time."""
    workers: Workers = 4
    precision: Literal["fp32", "bf16"] = "fp32"
    weights_key: str | None = None
    """Of the tensors in the PATH of `model`, as `teacher.weights_key`."""


@dataclass(frozen=True)
class KnnConfig:
    k: tuple[Count, ...] = (10, 20, 100, 200)
    temperature: NotNegative = 0.07
    """0: every neighbour counts one."""


@dataclass(frozen=True)
class LinearConfig:
    base_lrs: tuple[Rate, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Each for a global batch of 512."""
    epochs: Positive = 90
    warmup_epochs: NotNegative = 10
    batch: Count = 16384
    """Images of a step over all ranks; at most all of them."""
    weight_decay: NotNegative = 0.0
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class ProbeJobConfig:
    """What `fd-scale knn` and `fd-scale linear` take."""

    folder: str
    """For the results."""
    probe: ProbeConfig
    knn: KnnConfig = KnnConfig()
    linear: LinearConfig = LinearConfig()
    timeout_minutes: Minutes = 60.0
    """For a rank to wait for another; the slowest may still be computing features."""


@dataclass(frozen=True)
class TrainingProbeConfig:
    """Measured every `run.evaluate_every` steps, logged as `knn`; `run.keep.best=knn` keeps the best checkpoint."""

    train: str | None = None
    validation: str | None = None
    """Folders of labelled shards; a few thousand images are enough to see a trend."""
    k: Count = 20
    batch: Count = 64
    """Images that a rank computes at a time."""
    view: EvaluationView = EvaluationView()
