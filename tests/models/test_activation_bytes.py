"""The estimate of what a block keeps, against the storages that autograd saves."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fd_scale.models import init
from fd_scale.models.swin_v2 import SwinV2


def measured_bytes(model: SwinV2, tokens: torch.Tensor) -> list[int]:
    """Bytes of the storages that each block saves, parameters and what the stage hands to all its blocks left out."""
    outside = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    measured: list[int] = []

    def call_block(block, tokens, layout, bias, draws):
        shared = [layout.take, layout.back] + [t for t in (layout.padded, layout.regions, bias) if t is not None]
        ignored = outside | {tensor.untyped_storage().data_ptr() for tensor in shared}
        saved = {}  # the tensors are kept as well: a freed storage's address may come back

        def pack(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            output = block(tokens, layout, bias, draws)
        measured.append(sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in ignored))
        return output

    model.call_block = call_block
    model(tokens)
    return measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["reference", "tiled"])
@pytest.mark.parametrize(
    ("pixels", "window", "position_bias", "chunk"),
    [
        pytest.param((64, 64), 8, "shared", 0, id="whole windows"),
        pytest.param((50, 76), 8, "per_block", 0, id="padded, bias of each block"),
        pytest.param((64, 64), 8, "per_block", 3, id="in chunks"),
    ],
)
def test_the_estimate_is_what_autograd_saves(pixels, window, position_bias, chunk, attention, dtype):
    model = SwinV2(
        64,
        (2, 2),
        (2, 4),
        window=window,
        patch_size=2,
        drop_path=0.0,
        position_bias=position_bias,
        extra_norm_every=2,
        attention=attention,
        window_chunk=chunk,
    ).to(dtype)
    init.initialise_all(model, 0)
    images = torch.randn(2, 3, *pixels)
    shape = (2, -(-pixels[0] // 2), -(-pixels[1] // 2), 64)
    estimate = model.activation_bytes(shape, dtype.itemsize)
    for ours, real in zip(estimate, measured_bytes(model, images), strict=True):
        assert ours == pytest.approx(real, rel=0.1)


def test_less_is_kept_without_matrices_and_in_chunks():
    def kept(attention: str, chunk: int = 0) -> int:
        model = SwinV2(32, (2,), (2,), window=16, position_bias="shared", attention=attention, window_chunk=chunk)
        return sum(model.activation_bytes((2, 64, 64, 32), 4))

    assert kept("tiled") < 0.5 * kept("reference")
    assert kept("reference", chunk=4) < 0.65 * kept("reference")
