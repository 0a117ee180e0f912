"""One view of an image, shared by all models that see it: random resized crop, flip, perhaps more, uint8.

The published pre-training view (arXiv 2205.14141: area 0.08..1, ratio 3/4..4/3, bilinear, horizontal flip) is the
default; fine-tuning asks for `augment` besides. The sampling of the rectangle follows torchvision's RandomResizedCrop;
pixels are PIL's antialiased resize. Every draw is keyed by (seed, step, position in the global batch), so that it does
not depend on which process makes it. Normalisation happens on the device, for each model with its own statistics.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fd_scale.data.augment import augment
from fd_scale.data.config import EvaluationView, ViewConfig

Box = tuple[int, int, int, int]

MOST_RESIZED = 2**25  # pixels of an image resized whole, 128 MiB in PIL; one of 1 x 20000 would make 1.3 billion

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def random_view(image: Image.Image, config: ViewConfig, seed: int, step: int, position: int) -> Tensor:
    """Crop, resize and flip an image at random.

    Returns:
        (3, image_size, image_size) uint8
    """
    random = np.random.default_rng((seed, step, position))
    box = random_box(random, image.width, image.height, config)
    # Cropped first: resize(box=) would let pixels outside of the box into its edges.
    view = image.crop(box).resize((config.image_size, config.image_size), FILTERS[config.interpolation])
    if random.random() < config.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.augment.active:
        view = augment(view, config.augment, config.interpolation, int(random.integers(2**32)))
    return to_tensor(view)


def evaluation_view(image: Image.Image, size: int, config: EvaluationView) -> Tensor:
    """Crop an image for evaluation, as torchvision's Resize of the short side and CenterCrop do.

    Returns (3, size, size) uint8.
    """
    short = int(size / config.crop)
    scale = short / min(image.size)
    wide = (max(short, int(image.width * scale)), max(short, int(image.height * scale)))
    left, top = round((wide[0] - size) / 2), round((wide[1] - size) / 2)
    if wide[0] * wide[1] > MOST_RESIZED:
        return to_tensor(_resized_part(image.convert("RGB"), wide, (left, top), size, config.interpolation))
    resized = image.convert("RGB").resize(wide, FILTERS[config.interpolation])
    return to_tensor(resized.crop((left, top, left + size, top + size)))


def _resized_part(
    image: Image.Image, wide: tuple[int, int], corner: tuple[int, int], size: int, interpolation: str
) -> Image.Image:
    """What the square at `corner` of the image resized to `wide` would show, without making the rest of it.

    The same but for rounding: PIL clips to 8 bits between its two passes, which then come in another order. That is why
    ordinary images take the other way, whose pixels are torchvision's.
    """
    spans, box = [], []
    for length, resized, first in zip(image.size, wide, corner, strict=True):
        ratio = length / resized
        reach = math.ceil(2 * max(1, ratio)) + 1  # of the wider filter, which may look beyond the square
        start, end = first * ratio, (first + size) * ratio
        spans.append((max(0, math.floor(start) - reach), min(length, math.ceil(end) + reach)))
        box.append((start - spans[-1][0], min(end, length) - spans[-1][0]))
    (left, right), (top, bottom) = spans
    part = image.crop((left, top, right, bottom))
    return part.resize((size, size), FILTERS[interpolation], box=(box[0][0], box[1][0], box[0][1], box[1][1]))


def centre_view(image: Image.Image, size: int) -> Tensor:
    """Crop the largest centred square for evaluation. Returns (3, size, size) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return to_tensor(image.convert("RGB").crop(box).resize((size, size), Image.Resampling.BILINEAR))


def random_box(random: np.random.Generator, width: int, height: int, config: ViewConfig) -> Box:
    """Draw a box (left, top, right, bottom) of random area and aspect ratio; the central crop after ten misses."""
    low, high = (math.log(ratio) for ratio in config.crop_ratio)
    for _ in range(10):
        area = width * height * random.uniform(*config.crop_scale)
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W) uint8


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise (B, 3, H, W) uint8 to fp32 with the given pixel statistics (of values in 0..1)."""
    shift = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - shift) / scale
