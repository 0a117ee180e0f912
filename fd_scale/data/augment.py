"""Augmentation of a view in fine-tuning, after crop and flip: RandAugment or colour jitter, by timm and torchvision.

Both draw from the global generators of `random`, numpy and torch. Here these are seeded from a key for each image and
put back afterwards, so that an image is changed alike in whatever process its turn comes. Mixup, cutmix and erasing
work on batches on the device: `fd_scale.data.mixing`.
"""

import contextlib
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from fd_scale.data.config import AugmentConfig
from fd_scale.errors import BadInput

GREY = (124, 116, 104)
"""Mean of ImageNet, which fills what a rotation or a shift leaves empty (timm's choice)."""


def augment(view: Image.Image, config: AugmentConfig, interpolation: str, key: int) -> Image.Image:
    """Augment an RGB image, which keeps its size, by random numbers that follow from `key` (32 bits) alone."""
    with _seeded(key):
        return transform(config, interpolation, view.size)(view)


@lru_cache(maxsize=4)
def transform(config: AugmentConfig, interpolation: str, size: tuple[int, int]) -> Any:
    """Build the augmentation, which draws from the global generators.

    Ask for it once before training, to hear of a wrong notation.

    Raises:
        BadInput: not timm's notation.
    """
    if config.rand_augment is None:
        from torchvision.transforms import ColorJitter

        return ColorJitter(config.color_jitter, config.color_jitter, config.color_jitter)
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    hints = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": GREY,
        "interpolation": str_to_pil_interp(interpolation),
    }
    try:
        found = rand_augment_transform(config.rand_augment, hints)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"data.view.augment.rand_augment={config.rand_augment} is not in timm's notation, such as "
            f"rand-m9-mstd0.5-inc1 ({error!r})"
        ) from None
    for operation in found.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize
    return found


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep that many bits of each colour.

    At the largest strength timm 1.0.31 asks for 0 bits, which is black. Since Pillow 12 refuses 0, that would end a run
    in its first epoch.
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


@contextlib.contextmanager
def _seeded(key: int) -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(key)
    np.random.seed(key)
    torch.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
