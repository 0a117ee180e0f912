"""Every way to attend, and attending in chunks, against the reference path: outputs and all gradients."""

import logging
import math
from itertools import product

import pytest
import torch
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys
from fd_scale.models.attention.layout import fitted_shift, fitted_window, window_layout
from fd_scale.models.attention.paths import attend_in_windows, choose_path
from fd_scale.models.attention.tiled import tiled_attention
from fd_scale.models.swin_v2 import SwinV2

CPU = torch.device("cpu")
HEADS, CHANNELS = 3, 12

SIZES = [(8, 12), (5, 9), (13, 17), (3, 11), (7, 7)]
WINDOWS = [4, 5, 6]
OTHERS = [("tiled", 0), ("sdpa", 0), ("reference", 2), ("sdpa", 3)]


def attended(path: str, chunk: int, size, window, shift, dtype, pull: Tensor | None = None) -> list[Tensor]:
    """Output and gradients of windows of random projections, the same for every path."""
    layout = window_layout(2, size, window, shift, CPU)
    tokens = window[0] * window[1]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    projections = draw(sum(layout.counts), tokens, 3 * CHANNELS)
    scale = (20 * torch.rand(HEADS, 1, 1, dtype=torch.float64, generator=generator) + 80).to(dtype).requires_grad_()
    bias = draw(HEADS, tokens, tokens)
    output = attend_in_windows(path, projections, scale, bias, layout, chunk)
    assert output.shape == (sum(layout.counts), tokens, CHANNELS)
    # Padded positions compute something that nobody uses, so they are not compared.
    counted = torch.ones_like(output) if layout.padded is None else (~layout.padded).view(*output.shape[:2], 1)
    pull = torch.randn(output.shape, dtype=torch.float64, generator=generator).to(dtype) * counted
    gradients = torch.autograd.grad(output, (projections, scale, bias), pull)
    return [output.detach() * counted, *gradients]


@pytest.mark.parametrize(("path", "chunk"), OTHERS)
def test_windows_of_every_kind_attend_as_on_the_reference_path_in_fp64(path, chunk):
    for size, side in product(SIZES, WINDOWS):
        window = fitted_window(size, side)
        for shift in {(0, 0), fitted_shift(size, side)}:
            ours = attended(path, chunk, size, window, shift, torch.float64)
            for tensor, expected in zip(
                ours, attended("reference", 0, size, window, shift, torch.float64), strict=True
            ):
                bound = 1e-9 * max(1.0, expected.abs().max().item())
                assert (tensor - expected).abs().max() < bound, (size, window, shift)


@pytest.mark.parametrize(("path", "chunk"), OTHERS)
def test_fp32_errors_are_within_four_times_the_reference_paths_own(path, chunk):
    for size, side in [((13, 17), 6), ((8, 12), 4)]:
        case = size, fitted_window(size, side), fitted_shift(size, side)
        exact = attended("reference", 0, *case, torch.float64)
        single, ours = (attended(*how, *case, torch.float32) for how in (("reference", 0), (path, chunk)))
        for tensor, plain, truth in zip(ours, single, exact, strict=True):
            assert (tensor - truth).norm() <= 4 * (plain - truth).norm() + 1e-6 * truth.norm(), case


MODEL = {"embed_dim": 16, "depths": (2, 2), "heads": (2, 4), "patch_size": 2, "extra_norm_every": 2, "drop_path": 0.4}


@pytest.mark.parametrize("position_bias", ["per_block", "shared"])
def test_a_whole_model_has_the_reference_paths_outputs_and_gradients_in_fp64(position_bias, randomise, run):
    """Maps of 25x35 and 13x18 with windows of 11 and 10: shifted, padded, not square. Keys drop some branches."""
    images = torch.randn(3, 3, 50, 70, dtype=torch.float64)
    keys = sample_keys(0, 0, range(3))
    outcomes = []
    for attention, chunk in [("reference", 0), *OTHERS, ("auto", 0)]:
        model = SwinV2(
            **MODEL, window=11, position_bias=position_bias, attention=attention, window_chunk=chunk
        ).double()
        randomise(model)
        outcomes.append(run(lambda i, model=model: model(i, keys), model, images))
    (expected, gradients), *others = outcomes
    for output, ours in others:
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
        assert set(ours) == {*gradients}
        for name, gradient in ours.items():
            bound = 1e-9 * max(1.0, gradients[name].abs().max().item())
            torch.testing.assert_close(gradient, gradients[name], rtol=0, atol=bound)


def test_flex_attention_computes_what_the_reference_path_does(randomise):
    """Its forward pass alone: torch has no gradient for it on a CPU. Windows of every kind."""
    images = torch.randn(2, 3, 26, 34, dtype=torch.float64)
    outputs = []
    for attention in ("reference", "flex"):
        model = SwinV2(**MODEL, window=6, position_bias="shared", attention=attention).double().eval()
        randomise(model)
        with torch.no_grad():
            outputs.append(model(images))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-9)
    with pytest.raises(BadInput, match="'flex' has no gradient on a CPU; use 'auto'"):
        model(images)


def test_keys_that_are_all_masked_in_the_first_block_of_the_fused_kernel_leave_no_nan():
    """The kernel goes over keys by the hundred; a long run of -inf at the start must not divide 0 by 0."""
    projections = torch.randn(2, 1100, 3 * 4, dtype=torch.float64, requires_grad=True)
    scale = torch.full((1, 1, 1), 10.0, dtype=torch.float64)
    bias = torch.zeros(1, 1, 1100, 1100, dtype=torch.float64)
    bias[..., :1050] = -math.inf
    output = tiled_attention(projections, scale, bias, [2])
    output.sum().backward()
    assert output.isfinite().all()
    assert projections.grad.isfinite().all()


@pytest.mark.parametrize("attention", ["reference", "sdpa", "tiled"])
def test_logits_are_not_rounded_to_bf16(attention):
    """At the largest scale bf16 logits would be off by a quarter, and the output by as much."""
    layout = window_layout(1, (12, 12), (12, 12), (0, 0), CPU)
    half = torch.randn(1, 144, 3 * 64).bfloat16()
    scale, bias = torch.full((2, 1, 1), 100.0), torch.zeros(2, 144, 144)
    output = attend_in_windows(attention, half, scale, bias, layout)
    exact = attend_in_windows("reference", half.double(), scale.double(), bias.double(), layout)
    assert output.dtype == torch.bfloat16
    assert (output.double() - exact).norm() / exact.norm() < 5e-3


def test_the_path_in_use_follows_device_and_window_and_can_be_set():
    assert choose_path("auto", "cpu", 12 * 12) == "tiled"
    assert choose_path("auto", "cpu", 8 * 8) == "reference"
    assert choose_path("auto", "cuda", 56 * 56) == "sdpa", "flex is chosen by no one until it was measured"
    assert choose_path("flex", "cuda", 64) == "flex"
    assert choose_path("reference", "cpu", 12 * 12) == "reference"
    with pytest.raises(BadInput, match="'tiled' runs on a CPU, and the model is on cuda; use 'auto' or 'sdpa'"):
        choose_path("tiled", "cuda", 64)


def test_paths_are_logged_once_for_each_model(randomise, caplog):
    model = SwinV2(**MODEL, window=10).eval()
    randomise(model)
    with caplog.at_level(logging.INFO, "fd_scale"):
        for _ in range(2):
            model(torch.randn(1, 3, 50, 36))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["attention on cpu, windows and path of each stage: 10x10 tiled, 10x9 reference"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["reference", "sdpa", "flex"])
@pytest.mark.parametrize("window", [7, 12, 32])
def test_cuda_paths_have_the_cpu_reference_paths_outputs_and_gradients(attention, window, randomise, run):
    images = torch.randn(2, 3, 150, 180)
    outcomes = []
    for device, path in (("cpu", "reference"), ("cuda", attention)):
        model = SwinV2(32, (2, 2), (1, 2), window=window, drop_path=0.0, patch_size=2, attention=path)
        randomise(model)
        outcomes.append(run(model.to(device), model, images.to(device)))
    (expected, gradients), (output, ours) = outcomes
    assert torch.cosine_similarity(output.cpu().flatten(), expected.flatten(), dim=0) > 0.9999
    for name, gradient in ours.items():
        similarity = torch.cosine_similarity(gradient.cpu().flatten(), gradients[name].flatten(), dim=0)
        assert similarity > 0.999, name
