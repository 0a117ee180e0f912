"""Weights for fine-tuning, fitted by our loader, against what the published loaders make of the same file."""

import pytest
import torch
from support.parity import published

from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.weights.fitting import fit

NORM_OF_TOKENS = {"norm.weight", "norm.bias"}
"""Published fine-tuning pools the patches and norms their mean, so its models have none for the distilled one."""


@pytest.mark.parametrize(
    ("case", "image_size"), [("fd_remap_vit", 16), ("fd_remap_vit_larger", 48), ("fd_remap_vit_smaller", 20)]
)
def test_a_shared_table_reaches_every_block_and_another_size_as_published(case, image_size):
    reference = published(case)
    model = ViT(16, 2, 2, image_size=image_size, patch_size=4, position_bias="per_block")
    fitted = fit(model, reference.part("state")).tensors
    expected = reference.part("loaded")
    assert set(fitted) - NORM_OF_TOKENS == set(expected)
    for name, tensor in expected.items():
        if "relative_position_bias_table" in name:  # a spline by another algorithm, rounded to fp32 in both
            torch.testing.assert_close(fitted[name], tensor, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(fitted[name], tensor)


def test_a_shared_position_mlp_reaches_every_block_as_published():
    reference = published("fd_remap_swin_v2")
    model = SwinV2(4, (2, 1), (1, 1), window=4, patch_size=2)
    fitted = fit(model, reference.part("state")).tensors
    expected = {name.replace("rpe_mlp", "cpb_mlp"): tensor for name, tensor in reference.part("loaded").items()}
    assert set(fitted) == set(expected)
    assert all(torch.equal(fitted[name], tensor) for name, tensor in expected.items())
