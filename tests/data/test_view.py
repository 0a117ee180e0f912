import io

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from fd_scale.data.config import ViewConfig
from fd_scale.data.view import centre_view, normalise, random_box, random_view


def jpeg(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 1000))
def test_a_box_lies_inside_the_image(width, height, seed):
    left, top, right, bottom = random_box(np.random.default_rng(seed), width, height, ViewConfig())
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_boxes_have_the_published_areas_and_ratios():
    random = np.random.default_rng(0)
    boxes = np.array([random_box(random, 400, 400, ViewConfig(crop_scale=(0.08, 1.0))) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (w * h).min() >= 0.078 * 160_000
    assert (w / h).min() >= 0.74
    assert (w / h).max() <= 1.35
    # log-uniform ratio: as many wide as tall
    assert abs((w > h).mean() - (w < h).mean()) < 0.05


def test_a_view_has_the_pixels_that_torchvision_gives():
    content = jpeg(120, 90)
    config = ViewConfig(image_size=48, flip=0.0)
    box = random_box(np.random.default_rng((5, 6, 7)), 120, 90, config)
    left, top, right, bottom = box
    expected = tv.resized_crop(
        picture(content), top, left, bottom - top, right - left, [48, 48], InterpolationMode.BILINEAR, antialias=True
    )
    view = random_view(picture(content), config, seed=5, step=6, position=7)
    assert torch.equal(view, tv.pil_to_tensor(expected))


def test_a_view_depends_on_its_place_alone():
    content = jpeg(64, 64)
    config = ViewConfig(image_size=16)
    assert torch.equal(random_view(picture(content), config, 1, 2, 3), random_view(picture(content), config, 1, 2, 3))
    others = [random_view(picture(content), config, *key) for key in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]]
    assert not any(torch.equal(random_view(picture(content), config, 1, 2, 3), other) for other in others)


def test_half_of_the_views_are_flipped():
    content = jpeg(40, 40)
    whole = ViewConfig(image_size=40, crop_scale=(1, 1), crop_ratio=(1, 1))
    plain = centre_view(Image.open(io.BytesIO(content)), 40)
    plainly = sum(torch.equal(random_view(picture(content), whole, 0, step, 0), plain) for step in range(400))
    assert 160 < plainly < 240


def test_normalising_gives_zero_mean_and_unit_spread():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    values = images.float() / 255
    mean, std = tuple(values.mean(dim=(0, 2, 3)).tolist()), tuple(values.std(dim=(0, 2, 3)).tolist())
    normal = normalise(images, mean, std)
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-5)
