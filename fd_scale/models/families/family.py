"""The record of a student family: all that the rest of the library has to know of it beside its network.

A network (`swin_v2`, `vit`, `from_timm`) knows no configuration and no file. Its family says which names and keys stand
for it, how it is built from them, how weights reach it, and what training, planning and teachers do with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fd_scale.errors import BadInput
from fd_scale.models.backbone import Backbone
from fd_scale.models.classifier import Norm
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.parts import Fitted
from fd_scale.models.weights.published import PublishedWeights

Converter = Callable[[Any, str, str | None], Fitted]
"""(model, path or `timm:NAME`, key of the tensors in the file) -> the tensors of the model. Raises BadInput."""

KEYS_OF_SOME = (
    "patch_size",
    "position_bias",
    "window",
    "pretrained_window",
    "extra_norm_every",
    "residual_norm_init",
    "attention",
    "window_chunk",
)
"""Keys of `StudentConfig` that not every family takes."""


@dataclass(frozen=True, kw_only=True)
class Family:
    title: str
    """As error lines call it."""
    model: type[Backbone]
    build: Callable[[StudentConfig, int], Backbone]
    """From a configuration and the side of square images in pixels; parameters are neither initialised nor loaded.
    Raises BadInput."""
    weights: PublishedWeights | Converter
    """How weights reach a model: by this library's reading of published formats, or by another library's."""
    keys: frozenset[str]
    """Those of `KEYS_OF_SOME` that it takes."""
    other_keys: str = "{name} has no use for it"
    """Why it takes no others."""
    final_norm: Norm
    """What `finetune.norm: auto` means, by the published recipe."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Names of its own -> what they stand for."""
    prefix: str = ""
    """Or how the names begin that are its own, where they are too many to list."""
    position_biases: tuple[Literal["absolute", "per_block", "shared"], ...] = ()
    """Those that it can have; the first is the default."""
    native_size: int = 224
    """Side in pixels of the images that a model is built for where nothing else is said."""
    pixels: str | None = None
    """Name of the pixel statistics of all its published weights; None where they differ."""
    countable: Mapping[str, Any] = field(default_factory=dict)
    """Changes to a configuration after which torch counts all multiply-adds of the model."""

    def has(self, name: str) -> bool:
        """Whether a student of that name is one of this family."""
        return name in self.sizes or (self.prefix != "" and name.startswith(self.prefix))


def patch_size_of(config: StudentConfig, default: int, image_size: int) -> int:
    """Choose the patch size of a student.

    Raises:
        BadInput: it does not divide the image size.
    """
    patch_size = default if config.patch_size is None else config.patch_size
    if patch_size < 1:
        raise BadInput(f"student patch_size {patch_size} is below 1; {config.name} has {default} by default")
    if image_size < patch_size or image_size % patch_size:
        lower = max(image_size // patch_size, 1) * patch_size
        raise BadInput(
            f"image size {image_size} is not divisible by the patch size {patch_size} of {config.name}; "
            f"try {lower} or {lower + patch_size}"
        )
    return patch_size


def check_window(config: StudentConfig) -> None:
    """Refuse a window below 1.

    Raises:
        BadInput: it is.
    """
    if config.window is not None and config.window < 1:
        raise BadInput(f"student window {config.window} is below 1; leave it out for that of {config.name}")
