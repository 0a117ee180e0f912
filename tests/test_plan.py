"""Counting without memory: against the published cost of SwinV2-G, and against what really runs."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.plan import multiply_adds, parameters_by_part

GIANT = 2_997_843_680


def giant(size: int, window: int) -> int:
    config = StudentConfig("swin_v2_giant", window=window, drop_path=0.0, attention="sdpa")
    return multiply_adds(lambda: build_student(config, size), size)


def test_the_giant_has_its_published_parameters():
    with torch.device("meta"):
        parts = parameters_by_part(build_student(StudentConfig("swin_v2_giant"), 192))
    assert sum(parts.values()) == GIANT
    assert round(GIANT / 1e9, 3) == 2.998


# 192 px with window 12, 371: see the plan of the shipped config in test_config.py
@pytest.mark.parametrize(("size", "window", "billions"), [(224, 14, 507), (640, 40, 4639), (896, 56, 10168)])
def test_multiply_adds_of_the_giant_are_the_published_ones(size, window, billions):
    assert round(giant(size, window) / 1e9) == billions


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_of_timms_models_what_really_runs_is_counted(name):
    config = StudentConfig(f"timm:{name}", drop_path=0.0)
    counted = multiply_adds(lambda: build_student(config, 64), 64)
    student = build_student(config, 64)
    initialise_all(student, seed=0)
    with FlopCounterMode(display=False) as counter:
        student(torch.randn(1, 3, 64, 64))
    assert counted == counter.get_total_flops() // 2


def test_a_module_without_blocks_is_counted_as_a_whole():
    counted = multiply_adds(lambda: nn.Conv2d(3, 8, 4, stride=4, bias=False), 16)
    assert counted == 3 * 8 * 4 * 4 * (4 * 4)
