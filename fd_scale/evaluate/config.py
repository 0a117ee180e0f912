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
    model: str
    """The model that is measured: a file that `fd-scale export` wrote, or a teacher as `timm:NAME`, `timm:NAME@PATH`,
    `fd_scale:NAME@PATH`, `file:PATH` or `demo`."""
    train: str
    """Folder of labelled shards whose features are learned from."""
    validation: str
    """Folder of labelled shards whose features are classified."""
    image_size: Pixels = 224
    """Side of the images in pixels. An export is measured at the size that it was trained at."""
    view: EvaluationView = EvaluationView()
    """The view of an image whose features are computed."""
    pool: Pool = "mean"
    """The feature of an image: the mean of the model's map tokens, or its first prefix token (CLS)."""
    batch: Count = 64
    """Images that a rank computes at a time."""
    workers: Workers = 4
    """Number of processes of each rank that decode images; 0 decodes in the process itself."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The number format in which features are computed."""
    weights_key: str | None = None
    """Key of the tensors in the PATH of `model`, as `teacher.weights_key` of a distillation."""


@dataclass(frozen=True)
class KnnConfig:
    k: tuple[Count, ...] = (10, 20, 100, 200)
    """Numbers of neighbours that vote; each is measured."""
    temperature: NotNegative = 0.07
    """Temperature of the votes, exp(similarity / temperature); with 0 every neighbour counts one."""


@dataclass(frozen=True)
class LinearConfig:
    base_lrs: tuple[Rate, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Learning rates to try, all in one pass, each for a global batch of 512."""
    epochs: Positive = 90
    """Length of the training in passes over the features."""
    warmup_epochs: NotNegative = 10
    """Length of the warm-up in passes over the features."""
    batch: Count = 16384
    """Images of one step over all ranks; at most all of them."""
    weight_decay: NotNegative = 0.0
    """Weight decay of the classifiers' matrices."""
    seed: Seed = 0
    """Seed of the classifiers' initial values and of the order of the images."""


@dataclass(frozen=True, kw_only=True)
class ProbeJobConfig:
    """Configuration of `fd-scale knn` and `fd-scale linear`."""

    folder: str
    """Folder for the results: knn.json or linear.json."""
    probe: ProbeConfig
    """The model and the images."""
    knn: KnnConfig = KnnConfig()
    """The classification by nearest neighbours, of `fd-scale knn`."""
    linear: LinearConfig = LinearConfig()
    """The training of linear classifiers, of `fd-scale linear`."""
    timeout_minutes: Minutes = 60.0
    """Time after which a rank gives up waiting for another, which may still be computing features."""


@dataclass(frozen=True)
class TrainingProbeConfig:
    train: str | None = None
    """Folder of labelled shards whose features are learned from; a few thousand images are enough to see a trend."""
    validation: str | None = None
    """Folder of labelled shards whose features are classified. Give both folders and `run.evaluate_every`, or none."""
    k: Count = 20
    """Number of neighbours that vote."""
    batch: Count = 64
    """Images that a rank computes at a time."""
    view: EvaluationView = EvaluationView()
    """The view of an image whose features are computed."""
