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
from fd_scale.errors import BadInput

SWIN = {"type": "FDSwinV2", "name": "swin_v2_nano", "patch_size": 4, "window": 6, "drop_path": 0.0}
VIT = {"type": "FDViT", "name": "vit_tiny", "image_size": 64, "out_channels": 32, "drop_path": 0.0}
BEIT = {**VIT, "pyramid": "beit"}
STRIDES = (4, 8, 16, 32)


def built(config: dict, **options):
    torch.manual_seed(0)
    model = MODELS.build({**config, **options})
    model.init_weights()
    return model


@pytest.mark.parametrize("registry", [mmseg.registry.MODELS, mmdet.registry.MODELS])
def test_both_libraries_find_the_backbones(registry):
    assert {registry.get(config["type"]).__name__ for config in (SWIN, VIT)} == {"FDSwinV2", "FDViT"}


@pytest.mark.parametrize(("config", "channels"), [(SWIN, (24, 48, 96, 192)), (VIT, (32,) * 4), (BEIT, (192,) * 4)])
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (33, 66)])
def test_four_maps_cover_an_image_of_any_size(config, channels, size):
    maps = built(config).eval()(torch.randn(2, 3, *size))
    expected = [
        (2, width, math.ceil(size[0] / s), math.ceil(size[1] / s)) for width, s in zip(channels, STRIDES, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize("config", [SWIN, VIT, BEIT])
@pytest.mark.parametrize("position_bias", ["shared", "per_block"])
def test_every_parameter_gets_a_gradient(config, position_bias):
    """A parameter without one would stop DDP, and idle in every optimizer state."""
    model = built(config, position_bias=position_bias)
    sum((m * torch.randn_like(m)).sum() for m in model(torch.randn(1, 3, 75, 101))).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
    assert len(list(model.named_parameters())) - len(trained) == (2 if config is BEIT else 0)  # the norm behind all


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


def test_beits_pyramid_is_the_published_one_over_the_maps_behind_four_blocks():
    """Against its definition in microsoft/unilm, written out here: fpn1 to fpn4 on blocks 4, 6, 8 and 12."""
    model = built(BEIT).eval()
    images = torch.randn(2, 3, 64, 64)
    found = model(images)
    blocks: list[torch.Tensor] = []
    for block in model.model.blocks():
        block.register_forward_hook(lambda _, __, tokens: blocks.append(tokens))
    model(images)
    four, six, eight, twelve = (
        blocks[number - 1][:, 1:].transpose(1, 2).reshape(2, 192, 4, 4) for number in (4, 6, 8, 12)
    )
    up, norm, gelu, again = model.pyramid[0]
    expected = [again(gelu(norm(up(four)))), model.pyramid[1][0](six), eight, torch.max_pool2d(twelve, 2, 2)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert sorted(name for name, _ in model.pyramid.named_parameters()) == sorted(
        f"{place}.{kind}" for place in ("0.0", "0.1", "0.3", "1.0") for kind in ("weight", "bias")
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pyramid": "beit", "taps": [3, 6, 9]}, "four ascending numbers of blocks, from 1 to 12"),
        ({"pyramid": "beit", "taps": [3, 6, 9, 13]}, "four ascending"),
        ({"pyramid": "beit", "taps": [3, 3, 9, 12]}, "four ascending"),
        ({"taps": [3, 6, 9, 12]}, "'vitdet' takes the last map alone"),
        ({"pyramid": "fpn"}, "pyramid"),
    ],
)
def test_pyramids_that_cannot_be_are_refused(options, line):
    with pytest.raises(BadInput, match=line):
        built(VIT, **options)


@pytest.mark.parametrize("options", [{"attention": "reference"}, {"window_chunk": 2}])
def test_how_windows_attend_changes_nothing_but_rounding(options):
    images = torch.randn(1, 3, 75, 101)
    for mine, theirs in zip(built(SWIN, **options).eval()(images), built(SWIN).eval()(images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
