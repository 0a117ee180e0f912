"""The shipped teacher: small, documented, and better than random weights on photographs that it has not seen."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.nn.functional import normalize
from torchvision.transforms.v2.functional import pil_to_tensor, rgb_to_grayscale

from fd_scale.demo.photos import photographs, write_crops
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import DEMO, build_teacher


@pytest.fixture(scope="module")
def facts():
    with safe_open(DEMO, framework="pt") as file:
        return json.loads(file.metadata()["fd_scale_teacher"])


def test_the_file_is_small_and_says_how_it_was_made(facts):
    assert DEMO.stat().st_size <= 3e6
    assert {"licence", "description", "recipe", "photographs", "measured"} <= facts.keys()


def test_no_held_out_photograph_was_trained_on(facts):
    assert not set(facts["photographs"]) & {photograph.name for photograph in photographs(None) if photograph.held_out}


@pytest.mark.parametrize("image_size", [96, 128, 224])
def test_it_gives_a_map_at_any_size(image_size):
    teacher = build_teacher(TeacherConfig("demo"), image_size)
    side = image_size // 16
    with torch.no_grad():
        tokens = teacher(torch.randn(2, 3, image_size, image_size))
    assert teacher.grid(image_size, image_size) == (side, side)
    assert tokens.shape == (2, side * side, teacher.width)


@torch.no_grad()
def test_it_finds_the_photograph_of_a_grey_crop_better_than_random_weights(tmp_path):
    write_crops([photograph for photograph in photographs(None) if photograph.held_out], tmp_path / "crops", count=160)
    files = sorted((tmp_path / "crops").rglob("*.jpg"))
    pixels = torch.stack([pil_to_tensor(Image.open(file).resize((96, 96))) for file in files]) / 255
    teacher = build_teacher(TeacherConfig("demo"), 96)

    def found() -> float:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (teacher.mean, teacher.std))
        colour, grey = (
            normalize(teacher((images - mean) / std).mean(1), dim=1) for images in (pixels, rgb_to_grayscale(pixels, 3))
        )
        nearest = (grey @ colour.T).fill_diagonal_(-1).argmax(1).tolist()
        return sum(files[i].parent == files[j].parent for i, j in enumerate(nearest)) / len(files)

    trained = found()
    torch.manual_seed(0)
    teacher.model.init_weights()
    assert trained > found() + 0.1
