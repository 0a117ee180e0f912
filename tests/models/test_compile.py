"""`torch.compile` takes every backbone as one graph, and computes what the plain one does."""

import pytest
import torch

from fd_scale.keyed import sample_keys
from fd_scale.models.precision import cast
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.parallel.recompute import apply_recompute


def swin(attention: str = "auto", position_bias: str = "per_block", window_chunk: int = 0) -> SwinV2:
    return SwinV2(
        8,
        (2,),
        (2,),
        window=10,
        patch_size=2,
        drop_path=0.4,
        position_bias=position_bias,
        attention=attention,
        window_chunk=window_chunk,
    )


def vit(position_bias: str) -> ViT:
    return ViT(16, 2, 2, image_size=16, patch_size=8, drop_path=0.4, position_bias=position_bias)


CASES = [
    pytest.param(swin, (50, 36), "none", id="swin, auto"),
    pytest.param(lambda: swin("sdpa", "shared", 2), (40, 40), "every 2", id="swin, sdpa in chunks, half recomputed"),
    pytest.param(lambda: vit("absolute"), (16, 16), "none", id="vit, absolute"),
    pytest.param(lambda: vit("shared"), (16, 16), "every 2", id="vit, shared bias, half recomputed"),
]


@pytest.mark.parametrize(("build", "pixels", "policy"), CASES)
def test_backbones_compile_as_one_graph(build, pixels, policy, randomise, run):
    torch.compiler.reset()
    model = build().double()
    randomise(model)
    apply_recompute(model, policy)
    images, keys = torch.randn(2, 3, *pixels, dtype=torch.float64), sample_keys(0, 0, range(2))
    expected, gradients = run(lambda i: model(i, keys), model, images)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    output, ours = run(lambda i: compiled(i, keys), model, images)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    assert set(ours) == set(gradients)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_student_in_bf16_compiles_whole_with_its_coordinates_unrounded():
    torch.compiler.reset()
    model = SwinV2(8, (2,), (2,), window=4, patch_size=2).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.1)
    cast(model, torch.device("cpu"), torch.bfloat16)
    images = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    assert torch.equal(compiled(images), model(images))
