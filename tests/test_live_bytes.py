"""Live bytes counted on fake tensors are those that the profiler sees of a real pass."""

import pytest
import torch

from fd_scale.live_bytes import peak_of_evaluation, peak_of_training
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.parallel.recompute import apply_recompute
from tools.measure_memory.live import LivePeak, peak_of

SIZE = 96


def student(name: str, recompute: str):
    model = build_student(StudentConfig(name, drop_path=0.0, position_bias="shared"), SIZE).train()
    apply_recompute(model, recompute)
    return model


def really(name: str, dtype: torch.dtype, recompute: str, images: torch.Tensor) -> int:
    model = student(name, recompute)
    initialise_all(model, seed=0)
    model.to(dtype)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))

    def step() -> None:
        model(images).float().mean().backward()

    step()  # what operators keep for good is no part of a step
    with LivePeak() as live:
        step()
    return live.peak


@pytest.mark.parametrize(("dtype", "recompute"), [(torch.float32, "none"), (torch.bfloat16, "all")])
def test_the_peak_of_a_step_is_counted_without_memory(dtype, recompute):
    images = torch.randn(2, 3, SIZE, SIZE, dtype=dtype)
    with torch.device("meta"):
        outline = student("swin_v2_nano", recompute)
    counted = peak_of_training(outline, tuple(images.shape), dtype)
    assert counted == pytest.approx(really("swin_v2_nano", dtype, recompute, images), rel=0.05)


def test_the_peak_without_gradients_is_counted_without_memory():
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.device("meta"):
        outline = student("swin_v2_nano", "none")
    model = student("swin_v2_nano", "none")
    initialise_all(model, seed=0)
    with torch.no_grad(), LivePeak() as live:
        model(images)
    assert peak_of_evaluation(outline, tuple(images.shape), torch.float32) == pytest.approx(live.peak, rel=0.05)


def test_memory_that_is_handed_out_again_was_free():
    assert peak_of([(0, 100), (100, 50), (0, -100), (0, 40), (100, -50)]) == 150
    assert peak_of([(0, 100), (50, 100)]) == 100  # another thread gave back the first
    assert peak_of([(0, 10), (10, 10), (5, 10)]) == 20
    assert peak_of([(7, -7), (0, 5)]) == 5  # of before the first event
