"""The configuration of data: which images, in which order, and what is done to them on the way.

Imports no torch, so that a configuration is read and refused at once; what the values do is in the modules named here:
`loader`, `order`, `view`, `augment`, `mixing`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fd_scale.errors import BadInput
from fd_scale.fields import (
    Count,
    MayDiffer,
    NotNegative,
    PartialShare,
    Pixels,
    Positive,
    PositiveShare,
    Range,
    Share,
    Workers,
)

Ratio = Annotated[float, Range(0.01, 100)]
"""Width divided by height."""


@dataclass(frozen=True)
class AugmentConfig:
    rand_augment: str | None = None
    """RandAugment in timm's notation; null turns it off. Published fine-tuning uses `rand-m9-mstd0.5-inc1`."""
    color_jitter: Annotated[float, Range(0, 100)] = 0.0
    """Strength of random changes of brightness, contrast and saturation. It has no effect beside `rand_augment`, as in
    timm: the published recipes name 0.4 and never use it."""

    @property
    def active(self) -> bool:
        return self.rand_augment is not None or self.color_jitter > 0


@dataclass(frozen=True)
class ViewConfig:
    image_size: Pixels = 224
    """Side of the square view in pixels."""
    crop_scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    """Smallest and largest share of the image's area that the random crop takes."""
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of the crop's width to its height."""
    flip: Share = 0.5
    """Probability that the view is mirrored left to right."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How the crop is resized to the view."""
    augment: AugmentConfig = AugmentConfig()
    """What else is done to the view, usually in fine-tuning; nothing by default."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise BadInput(f"data.view.{name}=[{low:g}, {high:g}]: give the smaller one first")


@dataclass(frozen=True)
class EvaluationView:
    crop: Annotated[float, Range(0.01, 1)] = 224 / 256
    """Share of the image's short side that the central crop takes; the crop is then the view."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How the image is resized."""


@dataclass(frozen=True)
class OrderConfig:
    streams: Count = 128
    """Number of streams that a data set is cut into; each rank reads whole ones. Take at least the number of ranks of
    the largest world that will run this configuration, so that each host reads only its share of the shards."""
    group_shards: Count = 8
    """Number of neighbouring shards whose samples are shuffled together."""


@dataclass(frozen=True)
class DataConfig:
    train: Annotated[str | dict[str, Positive], MayDiffer()]
    """Folder of shards that `fd-scale pack` wrote or `fd-scale index` described, or a mapping of several folders to the
    weight of each. `synthetic:N` means N made-up images, for a dry run. The path may differ between two starts;
    the data may not, which checkpoints know by their hash."""
    view: ViewConfig = ViewConfig()
    """The random view of an image that student and teachers share."""
    order: OrderConfig = OrderConfig()
    """The order in which samples are read. Other values make another run."""
    workers: Annotated[Workers, MayDiffer()] = 4
    """Number of processes of each rank that decode images; 0 decodes in the training process."""
    max_bad_share: Annotated[Share, MayDiffer()] = 0.01
    """Largest share of unusable samples, among those read since the start, before the run stops."""

    @property
    def sources(self) -> dict[str, float]:
        return self.train if isinstance(self.train, dict) else {self.train: 1.0}


@dataclass(frozen=True)
class MixConfig:
    mixup: NotNegative = 0.8
    """Both parameters of the Beta distribution from which mixup draws the share of each image; 0 turns mixup off."""
    cutmix: NotNegative = 1.0
    """Both parameters of the Beta distribution from which cutmix draws the share of each image; 0 turns cutmix off."""
    switch: Share = 0.5
    """Share of the pairs that get cutmix, the others get mixup, where both are on."""
    smoothing: PartialShare = 0.1
    """Label smoothing: the share of a target that is spread evenly over all classes."""
    erase: Share = 0.25
    """Share of the images in which a random rectangle is replaced by noise."""

    @property
    def in_pairs(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0
