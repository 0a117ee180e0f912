"""Buffers keep the precision that they need, and what they meet computes with it."""

import copy

import pytest
import timm
import torch
from torch import nn

from fd_scale.models.attention import relative_coordinates
from fd_scale.models.attention.windows import SharedPositionBias
from fd_scale.models.config import StudentConfig
from fd_scale.models.precision import WideningLinear, cast, fit_buffers
from fd_scale.models.zoo import build_student

CPU, BF16 = torch.device("cpu"), torch.bfloat16
SMALL = {"img_size": 64, "embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


def random(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **arguments).eval().requires_grad_(False)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.2 * torch.rand_like(tensor))  # norms and their statistics: none is 0 or 1
    return model


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, in the mean square."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_only_what_rounding_leaves_alone_is_rounded():
    exact = timm.create_model("swinv2_tiny_window8_256", **SMALL)
    model = cast(copy.deepcopy(exact), CPU, BF16)
    for (name, buffer), (_, before) in zip(model.named_buffers(), exact.named_buffers(), strict=True):
        assert torch.equal(buffer.to(before.dtype), before), name
        assert name.endswith("relative_coords_table") == (buffer.dtype == torch.float32), name
    assert {parameter.dtype for parameter in model.parameters()} == {BF16}


def test_a_second_time_changes_nothing():
    model = fit_buffers(random("swinv2_tiny_window8_256", **SMALL), BF16)
    before = {name: (id(buffer), buffer.dtype) for name, buffer in model.named_buffers()}
    fit_buffers(model, BF16)
    assert {name: (id(buffer), buffer.dtype) for name, buffer in model.named_buffers()} == before


def test_fp32_models_stay_as_they_are():
    model = random("test_efficientnet")
    before = copy.deepcopy(model)
    cast(model, CPU, torch.float32)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before.named_parameters()]
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images), before(images))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("test_efficientnet", {}), ("test_vit_relpos", {"img_size": 64}), ("swinv2_cr_tiny_224", SMALL)],
)
def test_models_with_statistics_or_coordinates_compute_in_bf16_nearly_what_they_do_in_fp32(name, arguments):
    """Batch norms; timm's other two networks of log-spaced coordinates."""
    model = random(name, **arguments)
    images = torch.randn(1, 3, 64, 64)
    expected = model.forward_features(images)
    found = cast(model, CPU, BF16).forward_features(images.to(BF16))
    assert found.dtype == BF16
    assert difference(found, expected) < 0.03


def test_statistics_of_batch_norms_are_not_rounded():
    model = random("test_efficientnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = cast(model, CPU, BF16).state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        if "bn" in name and tensor.is_floating_point():
            assert torch.equal(tensor, before[name]), name


@torch.no_grad()
def test_coordinates_meet_the_position_network_unrounded():
    """Window 40, of the giant at 640 px: neighbours at its far end differ by less than bf16 tells apart."""
    torch.manual_seed(0)
    first = SharedPositionBias(4).to(BF16).cpb_mlp[0]
    coordinates = relative_coordinates((40, 40), 12, CPU)
    exact = copy.deepcopy(first).double()(coordinates.double())
    assert difference(first(coordinates), exact) < 0.8 * difference(first(coordinates.to(BF16)), exact)


@torch.no_grad()
def test_an_autocast_does_not_round_them_either():
    torch.manual_seed(0)
    linear = WideningLinear(2, 64)
    given = relative_coordinates((40, 40), 12, CPU).double()
    with torch.autocast("cpu", BF16):
        found = linear(given)
    assert torch.equal(found, linear(given))


@pytest.mark.parametrize("name", ["timm:swinv2_tiny_window8_256", "swin_v2_tiny"])
def test_students_in_bf16_give_every_parameter_a_gradient(name):
    student = build_student(StudentConfig(name, drop_path=0.0), 64)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(std=0.05)
    cast(student, CPU, BF16)(torch.randn(1, 3, 64, 64, dtype=BF16)).float().square().sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
