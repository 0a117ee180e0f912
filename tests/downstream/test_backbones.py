"""FDSwinV2 and FDViT as MMSegmentation and MMDetection see them."""

import math

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import mmdet.registry
import mmseg.registry
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

import fd_scale_downstream  # noqa: F401  registers the backbones

SWIN = {"type": "FDSwinV2", "name": "swin_v2_nano", "patch_size": 4, "window": 6, "drop_path": 0.0}
VIT = {"type": "FDViT", "name": "vit_tiny", "image_size": 64, "out_channels": 32, "drop_path": 0.0}
STRIDES = (4, 8, 16, 32)


def built(config: dict, **options):
    torch.manual_seed(0)
    model = MODELS.build({**config, **options})
    model.init_weights()
    return model


@pytest.mark.parametrize("registry", [mmseg.registry.MODELS, mmdet.registry.MODELS])
def test_both_libraries_find_the_backbones(registry):
    assert {registry.get(config["type"]).__name__ for config in (SWIN, VIT)} == {"FDSwinV2", "FDViT"}


@pytest.mark.parametrize(("config", "channels"), [(SWIN, (24, 48, 96, 192)), (VIT, (32, 32, 32, 32))])
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (33, 66)])
def test_four_maps_cover_an_image_of_any_size(config, channels, size):
    maps = built(config).eval()(torch.randn(2, 3, *size))
    expected = [
        (2, width, math.ceil(size[0] / s), math.ceil(size[1] / s)) for width, s in zip(channels, STRIDES, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize("config", [SWIN, VIT])
@pytest.mark.parametrize("position_bias", ["shared", "per_block"])
def test_every_parameter_gets_a_gradient(config, position_bias):
    """A parameter without one would stop DDP, and idle in every optimizer state."""
    model = built(config, position_bias=position_bias)
    sum((m * torch.randn_like(m)).sum() for m in model(torch.randn(1, 3, 75, 101))).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("config", [SWIN, VIT])
def test_drop_path_depends_on_the_iteration_and_on_nothing_torch_draws(config):
    model = built(config, drop_path=0.9).train()
    for name, parameter in model.model.named_parameters():
        if name.endswith(("norm1.weight", "norm2.weight")):
            parameter.data.fill_(1.0)  # SwinV2's branches start at 1e-5 and would hide what is dropped
    images, hub = torch.randn(4, 3, 64, 64), MessageHub.get_current_instance()

    def last_map(iteration: int) -> torch.Tensor:
        hub.update_info("iter", iteration)
        torch.randn(7)
        return model(images)[-1]

    first, again, other = last_map(5), last_map(5), last_map(6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
