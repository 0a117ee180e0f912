"""Counting without memory: against the published cost of SwinV2-G, and against what really is kept."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.plan import Cost, cost, frozen_bytes, parameters_by_part, state_bytes

GIANT = 2_997_843_680


def giant(size: int, window: int) -> Cost:
    config = StudentConfig("swin_v2_giant", window=window, drop_path=0.0, attention="sdpa")
    return cost(lambda: build_student(config, size), size)


def test_the_giant_has_its_published_parameters():
    with torch.device("meta"):
        parts = parameters_by_part(build_student(StudentConfig("swin_v2_giant"), 192))
    assert sum(parts.values()) == GIANT
    assert round(GIANT / 1e9, 3) == 2.998


# 192 px with window 12, 371: see the plan of the shipped config in test_config.py
@pytest.mark.parametrize(("size", "window", "billions"), [(224, 14, 507), (640, 40, 4639), (896, 56, 10168)])
def test_multiply_adds_of_the_giant_are_the_published_ones(size, window, billions):
    assert round(giant(size, window).multiply_adds / 1e9) == billions


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_of_timms_models_what_really_runs_is_counted(name):
    config = StudentConfig(f"timm:{name}", drop_path=0.0)
    forward = cost(lambda: build_student(config, 64), 64)
    student = build_student(config, 64)
    initialise_all(student, seed=0)
    with FlopCounterMode(display=False) as counter:
        student(torch.randn(1, 3, 64, 64))
    assert forward.multiply_adds == counter.get_total_flops() // 2
    assert len(forward.blocks) == len(student.blocks())


def test_activations_are_what_autograd_really_keeps():
    config = StudentConfig("swin_v2_nano", drop_path=0.0, attention="reference", position_bias="shared")
    forward = cost(lambda: build_student(config, 32), 32)
    student = build_student(config, 32)
    initialise_all(student, seed=0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    for images in (2, 3, 5):
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            student(torch.randn(images, 3, 32, 32))
        found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        assert forward.activation_bytes(images, [False] * len(forward.blocks)) == found


def test_recomputing_keeps_inputs_and_the_largest_block():
    forward = Cost(0, blocks=[(10, 100), (0, 300), (0, 50)], inputs=[8, 4, 2], rest=(5, 7))
    assert forward.activation_bytes(2, [False] * 3) == 5 + 2 * 7 + (210 + 600 + 100)
    assert forward.activation_bytes(2, [True] * 3) == 5 + 2 * 7 + 2 * (8 + 4 + 2) + 600
    assert forward.activation_bytes(2, [True, False, False]) == 5 + 2 * 7 + 2 * 8 + 210 + 600 + 100


def test_a_module_without_blocks_is_counted_as_a_whole():
    forward = cost(lambda: nn.Conv2d(3, 8, 4, stride=4, bias=False), 16)
    assert forward.multiply_adds == 3 * 8 * 4 * 4 * (4 * 4)
    assert forward.blocks == []


def test_states_take_18_bytes_a_parameter_and_each_stage_spreads_more_of_them():
    assert state_bytes(GIANT, 3, 1, "bf16").total == 18 * GIANT
    assert state_bytes(GIANT, 3, 8, "bf16").total / 1e9 == pytest.approx(6.73, rel=0.005)  # DeepSpeed's estimator
    spread = [state_bytes(1000, stage, 4, "bf16").total for stage in (1, 2, 3)]
    assert spread == [2000 + 4000 + 12000 / 4, 2000 + (4000 + 12000) / 4, 18000 / 4]
    assert state_bytes(1000, 1, 1, "fp32", ema=True).total == 20_000 + 4_000
    assert frozen_bytes(1000, 4, "bf16", sharded=True) == 500
    assert frozen_bytes(1000, 4, "fp32", sharded=False) == 4000
