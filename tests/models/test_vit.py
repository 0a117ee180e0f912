"""The ViT student against timm's BEiT with shared weights."""

from functools import partial

import pytest
import timm
import torch
from timm.models.beit import Beit

from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys
from fd_scale.models import init
from fd_scale.models.config import StudentConfig
from fd_scale.models.vit import ViT, resized_map
from fd_scale.models.zoo import build_student
from fd_scale.parallel.recompute import apply_recompute

SIZES = [
    ("vit_small", "vit_small_patch16_224"),
    ("vit_base", "vit_base_patch16_224"),
    ("vit_large", "vit_large_patch16_224"),
    ("vit_huge", "vit_huge_patch14_224"),
    ("vit_giant", "vit_giant_patch14_224"),
]
MODES = ["absolute", "per_block", "shared"]


def ours(position_bias="shared", **changes) -> ViT:
    fields = {"image_size": 32, "patch_size": 8, "drop_path": 0.0, **changes}
    return ViT(48, 4, 3, position_bias=position_bias, **fields)


def theirs(position_bias: str) -> Beit:
    return Beit(
        img_size=32,
        patch_size=8,
        num_classes=0,
        embed_dim=48,
        depth=4,
        num_heads=3,
        init_values=0.1,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_fc_norm=False,
        use_abs_pos_emb=position_bias == "absolute",
        use_rel_pos_bias=position_bias == "per_block",
        use_shared_rel_pos_bias=position_bias == "shared",
    )


@pytest.mark.parametrize("position_bias", MODES)
def test_forward_and_gradients_equal_timms_beit_in_fp64(position_bias, randomise, run):
    model, reference = ours(position_bias).double(), theirs(position_bias).double()
    randomise(model)
    reference.load_state_dict(dict(model.named_parameters()), strict=True)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    output, gradients = run(model, model, images)
    expected, expected_gradients = run(reference.forward_features, reference, images)

    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
    assert set(gradients) == set(expected_gradients)
    for name, gradient in gradients.items():
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-9 * max(largest, 1.0))


def test_fp32_error_is_within_four_times_timms_own(randomise, run):
    model, reference = ours(), theirs("shared")
    randomise(model)
    reference.load_state_dict(dict(model.named_parameters()), strict=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output, _ = run(model, model, images)
    single, _ = run(reference.forward_features, reference, images)
    exact, _ = run(reference.double().forward_features, reference, images.double())
    assert (output.double() - exact).norm() < 4 * (single.double() - exact).norm()


@pytest.mark.parametrize(("name", "in_timm"), SIZES)
@pytest.mark.parametrize("patch_size", [None, 14, 16])
def test_named_sizes_are_timms(name, in_timm, patch_size):
    with torch.device("meta"):
        model = build_student(StudentConfig(name, patch_size=patch_size), 224)
        reference = timm.create_model(in_timm, num_classes=0)
    assert len(model.blocks()) == len(reference.blocks)
    assert model.blocks()[0].attn.heads == reference.blocks[0].attn.num_heads
    weights = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    for weight in weights:
        assert model.blocks()[-1].get_parameter(weight).shape == reference.blocks[-1].get_parameter(weight).shape
    patch = patch_size or reference.patch_embed.patch_size[0]
    assert model.strides == (patch,) * 4
    assert model.grid(224, 224) == (224 // patch, 224 // patch)


def test_class_token_comes_first_and_maps_hold_the_patches_row_by_row(randomise):
    model = ours()
    randomise(model)
    images = torch.randn(2, 3, 32, 32)
    tokens, maps = model(images), model.forward_maps(images)
    assert tokens.shape == (2, 1 + 4 * 4, model.width)
    assert model.num_prefix_tokens == 1
    assert model.grid(32, 32) == (4, 4)
    assert [tuple(m.shape) for m in maps] == [(2, 48, 32 // stride, 32 // stride) for stride in model.strides]
    patches = maps[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens[:, 1:], model.norm(patches))


@pytest.mark.parametrize(("depth", "expected"), [(12, (3, 6, 9, 12)), (24, (6, 12, 18, 24)), (2, (1, 1, 2, 2))])
def test_maps_come_from_evenly_spaced_depths(depth, expected):
    assert ViT(16, depth, 1, image_size=16).map_depths == expected


def test_position_bias_tells_the_class_token_from_patches(randomise):
    model = ours()
    randomise(model)
    table = model.rel_pos_bias.relative_position_bias_table
    bias = model.rel_pos_bias(model.built_grid)
    assert bias.shape == (3, 17, 17)
    assert torch.equal(bias[:, 0, 1:], table[-3][:, None].expand(-1, 16))
    assert torch.equal(bias[:, 1:, 0], table[-2][:, None].expand(-1, 16))
    assert torch.equal(bias[:, 0, 0], table[-1])


@pytest.mark.parametrize("position_bias", MODES)
def test_recompute_changes_nothing(position_bias, run):
    model = ours(position_bias, drop_path=0.5)
    init.initialise_all(model, 0)
    images = torch.randn(4, 3, 32, 32)
    keyed = partial(model, keys=sample_keys(0, 0, range(4)))
    output, gradients = run(keyed, model, images)
    apply_recompute(model, "all")
    again, gradients_again = run(keyed, model, images)
    assert torch.equal(output, again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


def test_bf16_trains_and_follows_fp32(randomise, run):
    model = ours()
    randomise(model)
    assert not list(model.buffers())
    images = torch.randn(2, 3, 32, 32)
    expected, _ = run(model, model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = run(model, model, images)
    output, gradients = run(model.bfloat16(), model, images)
    assert output.dtype == torch.bfloat16
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for rounded in (output, mixed):
        assert torch.cosine_similarity(rounded.float().flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("position_bias", MODES)
def test_parameters_are_used_only_where_sharding_gathers_them(position_bias, randomise, gather_only_in_hooks):
    model = ours(position_bias)
    randomise(model)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens, maps = model(images), model.forward_maps(images)
        gather_only_in_hooks(model)
        assert torch.equal(model(images), tokens)
        assert all(torch.equal(a, b) for a, b in zip(model.forward_maps(images), maps, strict=True))


def test_blocks_are_both_listed_and_named_as_in_beit():
    model = ours()
    assert model.blocks() == [model.get_submodule(f"blocks.{number}") for number in range(4)]


def test_another_grid_is_refused_with_both_named():
    with pytest.raises(BadInput, match=r"48x32 px give a grid of 6x4 .* built for 4x4: feed 32x32 px"):
        ours()(torch.randn(1, 3, 48, 32))


def test_an_image_of_part_of_a_patch_is_refused():
    with pytest.raises(BadInput, match="33x32 px"):
        ours()(torch.randn(1, 3, 33, 32))


def test_weight_decay_spares_the_class_token_but_not_the_table():
    assert ours("shared").no_weight_decay() == {"cls_token"}
    assert ours("absolute").no_weight_decay() == {"cls_token", "pos_embed"}


@pytest.mark.parametrize("position_bias", MODES)
def test_resized_positions_change_nothing_at_the_size_they_were_built_for(position_bias, randomise):
    model = ours(position_bias)
    randomise(model)
    images = torch.randn(2, 3, 32, 32)
    plain = model(images)
    model.resize_positions = True
    assert torch.equal(model(images), plain)


@pytest.mark.parametrize("position_bias", MODES)
def test_positions_of_another_size_are_as_if_the_model_had_been_built_for_it(position_bias, randomise):
    """Positions that are the same everywhere stay so on any grid, whatever the interpolation."""
    small, large = ours(position_bias), ours(position_bias, image_size=64)
    randomise(small)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter[:-3] = parameter[0]
            elif name == "pos_embed":
                parameter[:, 1:] = parameter[:, 1:2]
            if parameter.shape == large.get_parameter(name).shape:
                large.get_parameter(name).copy_(parameter)
            elif name == "pos_embed":
                large.pos_embed.copy_(torch.cat((parameter[:, :1], parameter[:, 1:2].expand(-1, 64, -1)), dim=1))
            else:
                table = torch.cat((parameter[:1].expand(15 * 15, -1), parameter[-3:]))
                large.get_parameter(name).copy_(table)
    small.resize_positions = True
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(small(images), large(images))


def test_resizing_stretches_positions_without_turning_or_mirroring_them():
    values = torch.tensor([[float(10 * row + column)] for row in range(3) for column in range(4)])
    assert resized_map(values, (3, 4), (3, 4)) is values
    stretched = resized_map(values, (3, 4), (6, 8)).view(6, 8)
    assert (stretched.diff(dim=0) > 0).all()
    assert (stretched.diff(dim=1) > 0).all()
    assert stretched.mean() == pytest.approx(values.mean())
