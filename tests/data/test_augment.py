"""Augmentation of single images: keyed, of the published kind, harmless to whoever else draws."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from fd_scale.data.augment import augment, posterize
from fd_scale.data.config import AugmentConfig, DataConfig, ViewConfig
from fd_scale.data.loader import TrainingData
from fd_scale.errors import BadInput

PUBLISHED = AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1")


@pytest.fixture
def photo() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("config", [PUBLISHED, AugmentConfig(color_jitter=0.4)])
def test_a_key_decides_alone_and_the_global_generators_go_on_undisturbed(photo, config):
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw() for _ in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found, pictures = [], []
    for _ in range(3):
        found.append(draw())
        pictures.append(np.asarray(augment(photo, config, "bicubic", 17)))
    assert found == expected
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_keys_give_different_pictures(photo):
    seen = {np.asarray(augment(photo, PUBLISHED, "bicubic", key)).tobytes() for key in range(40)}
    assert len(seen) > 20  # timm applies neither of its two operations to a quarter


def test_rand_augment_is_timms_with_the_same_draws(photo):
    """Against timm's own composition: create_transform's arguments for a 48 px image."""
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    hints = {
        "translate_const": int(48 * 0.45),
        "img_mean": tuple(min(255, round(255 * x)) for x in (0.485, 0.456, 0.406)),
        "interpolation": str_to_pil_interp("bicubic"),
    }
    theirs = rand_augment_transform("rand-m9-mstd0.5-inc1", hints)
    compared = 0
    for key in range(30):
        ours = augment(photo, PUBLISHED, "bicubic", key)
        random.seed(key), np.random.seed(key), torch.manual_seed(key)
        try:
            expected = np.asarray(theirs(photo))
        except ValueError:  # Pillow 12 refuses timm's posterize with 0 bits; ours is black there
            continue
        assert np.array_equal(np.asarray(ours), expected)
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_upper_bits_down_to_none(photo, bits):
    kept = 256 - 2 ** (8 - bits)
    assert np.array_equal(np.asarray(posterize(photo, bits)), np.asarray(photo) & kept)


def test_another_notation_is_refused_before_training(shards):
    view = ViewConfig(image_size=16, augment=AugmentConfig(rand_augment="rand-m9-nonsense7"))
    with pytest.raises(BadInput, match=r"rand_augment=rand-m9-nonsense7 is not in timm's notation, such as rand-m9"):
        TrainingData(DataConfig(str(shards), view), seed=0)
