"""Labelled images that a small model can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image

from fd_scale.data.packing.pack import pack


def packed(folder: Path, classes: tuple[str, ...], images: int, seed: int) -> Path:
    """Shards of noise whose colour is its class: easy, but not without looking."""
    random = np.random.default_rng(seed)
    for number in range(images):
        kind = number % len(classes)
        target = folder / "images" / classes[kind] / f"{number:03d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 160, (5, 6, 3), dtype=np.uint8)
        coarse[..., kind % 3] += 90
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(target, quality=90)
    pack(folder / "images", folder / "shards", shard_samples=20)
    return folder / "shards"
