"""Groups of the optimizer by depth, held to the published formula."""

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from fd_scale.errors import BadInput
from fd_scale_downstream.layer_decay import depths

LEARNING_RATE, DECAY, WEIGHT_DECAY = 1e-3, 0.8, 0.05
OUT_OF_RANGE = {"layer_decay": 0.9, "backbone_factor": 0.0}


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(4, 4, 1)


def model_of(kind: str, position_bias: str) -> Detector:
    swin = {"type": "FDSwinV2", "name": "swin_v2_nano", "patch_size": 4}  # blocks: 1, 1, 2, 2
    vit = {"type": "FDViT", "name": "vit_tiny", "image_size": 32, "out_channels": 8}  # 12 blocks
    return Detector(MODELS.build({**(swin if kind == "swin" else vit), "position_bias": position_bias}))


def optimizer_of(model: nn.Module, **paramwise):
    config = {
        "type": "OptimWrapper",
        "constructor": "FDLayerDecay",
        "paramwise_cfg": paramwise,
        "optimizer": {"type": "AdamW", "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
    }
    return build_optim_wrapper(model, config).optimizer


SWIN_DEPTHS = {
    "patch_embed.proj.weight": 0,
    "layers.0.blocks.0.attn.qkv.weight": 1,
    "layers.0.downsample.reduction.weight": 1,
    "layers.1.blocks.0.mlp.fc1.weight": 2,
    "layers.2.blocks.0.attn.proj.weight": 3,
    "layers.2.blocks.1.norm2.bias": 4,
    "layers.2.rel_pos_bias.cpb_mlp.2.weight": 3,
    "layers.3.blocks.1.attn.logit_scale": 6,
    "norm.weight": 7,
}
VIT_DEPTHS = {
    "patch_embed.proj.bias": 0,
    "cls_token": 0,
    "pos_embed": 0,
    "blocks.0.attn.qkv.weight": 1,
    "blocks.10.gamma_1": 11,
    "blocks.11.mlp.fc2.weight": 12,
    "norm.bias": 13,
}


@pytest.mark.parametrize(
    ("kind", "position_bias", "last", "expected"),
    [("swin", "shared", 7, SWIN_DEPTHS), ("vit", "absolute", 13, VIT_DEPTHS)],
)
def test_learning_rate_falls_by_the_decay_with_each_block_below_the_head(kind, position_bias, last, expected):
    model = model_of(kind, position_bias)
    found = depths(model.backbone.model)
    assert {name: found[name] for name in expected} == expected
    rates = {
        id(p): (group["lr"], group["lr_scale"])
        for group in optimizer_of(model, layer_decay=DECAY).param_groups
        for p in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    for name, depth in expected.items():
        scale = DECAY ** (last - depth)
        assert rates[id(model.backbone.model.get_parameter(name))] == pytest.approx((LEARNING_RATE * scale, scale))
    around = [p for n, p in model.named_parameters() if not n.startswith("backbone.model.")]
    assert {rates[id(p)] for p in around} == {(LEARNING_RATE, 1.0)}


@pytest.mark.parametrize(("kind", "position_bias"), [("swin", "per_block"), ("vit", "absolute")])
def test_weight_decay_spares_biases_vectors_and_what_the_backbone_names(kind, position_bias):
    model = model_of(kind, position_bias)
    groups = optimizer_of(model, layer_decay=DECAY).param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, WEIGHT_DECAY}
    spared = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    named = model.backbone.model.no_weight_decay()
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("backbone.model.")
        assert (id(parameter) in spared) == (parameter.dim() <= 1 or name.endswith(".bias") or plain in named), name


def test_no_decay_of_rates_leaves_two_rates_of_weight_decay_at_each_depth():
    rates = {group["lr"] for group in optimizer_of(model_of("swin", "shared"), layer_decay=1.0).param_groups}
    assert rates == {LEARNING_RATE}


def test_a_factor_of_the_backbone_multiplies_the_rates_of_its_model_alone():
    model = model_of("swin", "shared")
    groups = optimizer_of(model, layer_decay=DECAY, backbone_factor=0.1).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    backbone = model.backbone.model
    for name, depth in SWIN_DEPTHS.items():
        rate = LEARNING_RATE * 0.1 * DECAY ** (7 - depth)
        assert rates[id(backbone.get_parameter(name))] == pytest.approx(rate)
    assert {rates[id(p)] for n, p in model.named_parameters() if not n.startswith("backbone.model.")} == {LEARNING_RATE}


def test_frozen_parameters_are_left_out():
    model = model_of("swin", "shared")
    model.backbone.model.patch_embed.requires_grad_(False)
    groups = optimizer_of(model, layer_decay=DECAY).param_groups
    assert min(group["lr"] for group in groups) == pytest.approx(LEARNING_RATE * DECAY**6)


@pytest.mark.parametrize("options", [{"layer_decay": 0.0}, {"layer_decay": 1.5}, {"decay_rate": 0.9}, {}, OUT_OF_RANGE])
def test_other_options_are_refused(options):
    with pytest.raises(BadInput, match="layer_decay"):
        optimizer_of(model_of("swin", "shared"), **options)
