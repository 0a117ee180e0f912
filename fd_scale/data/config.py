"""The configuration of data: which images, in which order, and what is done to them on the way.

Imports no torch, so that a configuration is read and refused at once; what the values do is in the modules named here:
`loader`, `order`, `view`, `augment`, `mixing`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fd_scale.errors import BadInput
from fd_scale.fields import Count, NotNegative, PartialShare, Pixels, Positive, PositiveShare, Range, Share, Workers

Ratio = Annotated[float, Range(0.01, 100)]
"""Of width to height."""


@dataclass(frozen=True)
class AugmentConfig:
    rand_augment: str | None = None
    """timm's notation; published fine-tuning: rand-m9-mstd0.5-inc1."""
    color_jitter: Annotated[float, Range(0, 100)] = 0.0
    """Brightness, contrast and saturation. Without effect beside `rand_augment`, as in timm: the published recipes name
    0.4 and never use it."""

    @property
    def active(self) -> bool:
        return self.rand_augment is not None or self.color_jitter > 0


@dataclass(frozen=True)
class ViewConfig:
    image_size: Pixels = 224
    crop_scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    augment: AugmentConfig = AugmentConfig()
    """What fine-tuning does to a view besides; nothing by default."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise BadInput(f"data.view.{name}=[{low:g}, {high:g}]: give the smaller one first")


@dataclass(frozen=True)
class EvaluationView:
    """The view of evaluation: the short side shrunk so that the central crop of `image_size` is `crop` of it."""

    crop: Annotated[float, Range(0.01, 1)] = 224 / 256
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


@dataclass(frozen=True)
class OrderConfig:
    """Part of what a run is: another value is another order."""

    streams: Count = 128
    """P; at least the ranks of the largest world that shall read each shard on few hosts."""
    group_shards: Count = 8
    """Shards whose samples are shuffled together."""


@dataclass(frozen=True)
class DataConfig:
    train: str | dict[str, Positive]
    """Folder that `fd-scale pack` wrote, or `synthetic:N` for dry runs; several with a weight each make a mixture."""
    view: ViewConfig = ViewConfig()
    order: OrderConfig = OrderConfig()
    workers: Workers = 4
    """Decoding processes of each rank; 0 decodes in the training process."""
    max_bad_share: Share = 0.01
    """The run stops when more than this share of the samples seen since its start could not be used."""

    @property
    def sources(self) -> dict[str, float]:
        return self.train if isinstance(self.train, dict) else {self.train: 1.0}


@dataclass(frozen=True)
class MixConfig:
    """The published fine-tuning recipe is the default. 0 turns one off."""

    mixup: NotNegative = 0.8
    """Both parameters of the Beta distribution of the share; likewise for cutmix."""
    cutmix: NotNegative = 1.0
    switch: Share = 0.5
    """Share of pairs that are cut where both are on."""
    smoothing: PartialShare = 0.1
    """Of the labels."""
    erase: Share = 0.25
    """Share of images in which a rectangle becomes noise."""

    @property
    def in_pairs(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0
