"""Initialisation by (seed, name) alone, and the published rules."""

import math

import pytest
import torch

from fd_scale.models import init
from fd_scale.models.classifier import Classifier
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.objective.head import StudentWithHeads


def swin(**changes) -> SwinV2:
    fields = {"window": 4, "position_bias": "shared", "extra_norm_every": 2, **changes}
    return SwinV2(64, (2, 2), (2, 4), **fields)


def vit(position_bias="absolute") -> ViT:
    return ViT(128, 3, 2, image_size=32, patch_size=8, position_bias=position_bias)


@pytest.mark.parametrize("build", [swin, vit, lambda: vit("per_block"), lambda: swin(position_bias="per_block")])
def test_values_depend_on_seed_and_name_but_not_on_order(build):
    model, other = build(), build()
    init.initialise_all(model, 7)
    torch.manual_seed(123)
    for name, parameter in reversed(list(other.named_parameters())):
        init.initialise(other, name, parameter, 7)
    whole, again = dict(model.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not any(parameter.isnan().any() for parameter in whole.values())
    init.initialise_all(other, 8)
    assert not torch.equal(model.blocks()[0].attn.qkv.weight, other.blocks()[0].attn.qkv.weight)
    assert not torch.equal(model.blocks()[0].attn.qkv.weight, model.blocks()[1].attn.qkv.weight)


@pytest.mark.parametrize(
    "build", [vit, swin, lambda: StudentWithHeads(vit(), 7), lambda: Classifier(swin(), 5, "kept")]
)
def test_bf16_gets_the_rounded_values(build):
    model, half = build(), build().bfloat16()
    init.initialise_all(model, 0)
    init.initialise_all(half, 0)
    for exact, rounded in zip(model.parameters(), half.parameters(), strict=True):
        assert torch.equal(exact.bfloat16(), rounded)


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    model = vit()
    torch.set_rng_state(before)
    init.initialise_all(model, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_vit_is_cut_at_one_sigma_and_scaled_by_depth():
    model = vit()
    init.initialise_all(model, 0)
    # Standard deviation of a unit normal cut at one sigma.
    cut = math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2)))
    for number, block in enumerate(model.blocks()):
        for weight, std in [
            (block.attn.qkv.weight, 0.02),
            (block.mlp.fc1.weight, 0.02),
            (block.attn.proj.weight, 0.02 / math.sqrt(2 * (number + 1))),
            (block.mlp.fc2.weight, 0.02 / math.sqrt(2 * (number + 1))),
        ]:
            assert weight.abs().max() <= std
            assert weight.std().item() == pytest.approx(std * cut, rel=0.03)
        assert (block.gamma_1 == 0.1).all()
        assert (block.gamma_2 == 0.1).all()
        assert (block.norm1.weight == 1).all()
    assert model.pos_embed.abs().max() <= 0.02
    assert model.pos_embed.std() > 0


def test_swin_starts_with_silent_blocks_and_is_scaled_by_depth_over_all_stages():
    model = swin()
    init.initialise_all(model, 0)
    for number, block in enumerate(model.blocks()):
        assert (block.norm1.weight == 1e-5).all()
        assert (block.norm2.weight == 1e-5).all()
        assert block.attn.logit_scale.flatten().tolist() == pytest.approx([math.log(10)] * block.attn.heads)
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert block.mlp.fc2.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * (number + 1)), rel=0.03)
    assert (model.blocks()[1].enorm.weight == 1).all()
    assert (model.norm.weight == 1).all()
    published = swin(residual_norm_init=0.0)
    init.initialise_all(published, 0)
    assert (published.blocks()[0].norm1.weight == 0).all()


def test_a_model_that_nobody_initialised_shows():
    for model in (swin(), vit("shared")):
        assert model.eval()(torch.randn(1, 3, 32, 32)).isnan().any()


def test_a_parameter_without_a_rule_is_refused():
    for model in (swin(), vit()):
        with pytest.raises(LookupError, match="adapter"):
            init.initialise(model, "adapter", torch.empty(3), 0)


def test_a_rule_that_leaves_a_part_unfilled_is_refused():
    class Half:
        def init_parameter(self, name, parameter, generator):
            parameter[:1] = 0

    with pytest.raises(RuntimeError, match="left NaN"):
        init.initialise(Half(), "weight", torch.empty(3), 0)
