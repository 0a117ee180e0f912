"""SwinV2 against timm's with shared weights, and what sharding and recomputation from outside rely on."""

from functools import partial

import pytest
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2

from fd_scale.keyed import sample_keys
from fd_scale.models import init
from fd_scale.models.swin_v2 import SIZES, SwinV2
from fd_scale.parallel.recompute import apply_recompute

SMALL = {"embed_dim": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "patch_size": 2}


def ours(**changes) -> SwinV2:
    return SwinV2(**{**SMALL, "window": 4, "drop_path": 0.0, **changes})


def theirs(image_size, window, pretrained=(0, 0, 0, 0)) -> SwinTransformerV2:
    return SwinTransformerV2(
        img_size=image_size,
        patch_size=SMALL["patch_size"],
        embed_dim=SMALL["embed_dim"],
        depths=SMALL["depths"],
        num_heads=SMALL["heads"],
        window_size=window,
        pretrained_window_sizes=pretrained,
        drop_path_rate=0.0,
        num_classes=0,
    )


def timm_name(name: str) -> str:
    """timm has the merging at the start of the next stage, Microsoft at the end of this one."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[2] == "downsample":
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(parts)


CASES = [
    # Maps 32, 16, 8 and 4 with a window of 4: shifted windows in three stages, one window without shift in the last.
    pytest.param((64, 64), 4, None, id="even and shifted windows"),
    # Maps 24, 12, 6 and 3: the window shrinks, and coordinates keep the scale of the trained window.
    pytest.param((48, 48), 6, (4, 4, 4, 2), id="resized from another window"),
    # 16x32, 8x16, 4x8, 2x4: the window shrinks along one dimension only, and only the other one is shifted.
    pytest.param((32, 64), 4, None, id="not square"),
]


@pytest.mark.parametrize(("image_size", "window", "pretrained"), CASES)
def test_forward_and_gradients_equal_timm_in_fp64(image_size, window, pretrained, randomise, run):
    model = ours(window=window, pretrained_windows=pretrained).double()
    randomise(model)
    reference = theirs(image_size, window, pretrained or (0, 0, 0, 0)).double()
    reference.load_state_dict({timm_name(name): p for name, p in model.named_parameters()}, strict=True)
    images = torch.randn(2, 3, *image_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    output, gradients = run(model, model, images)
    expected, expected_gradients = run(reference.forward_features, reference, images)

    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
    assert {timm_name(name) for name in gradients} == set(expected_gradients)
    for name, gradient in gradients.items():
        largest = expected_gradients[timm_name(name)].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[timm_name(name)], rtol=0, atol=1e-9 * max(largest, 1.0))


def test_fp32_error_is_within_four_times_timms_own(randomise, run):
    model, reference = ours(), theirs((64, 64), 4)
    randomise(model)
    reference.load_state_dict({timm_name(name): p for name, p in model.named_parameters()}, strict=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    output, gradients = run(model, model, images)
    single, single_gradients = run(reference.forward_features, reference, images)
    reference.double()
    exact, exact_gradients = run(reference.forward_features, reference, images.double())

    def error(tensor, exact):
        return (tensor.double() - exact).norm() / exact.norm()

    assert error(output, exact) < 4 * error(single, exact)

    def flat(gradients, names):
        return torch.cat([gradients[name].flatten().double() for name in names])

    names = sorted(gradients)
    exact_flat = flat(exact_gradients, map(timm_name, names))
    timm_error = error(flat(single_gradients, map(timm_name, names)), exact_flat)
    assert error(flat(gradients, names), exact_flat) < 4 * timm_error


def build(name: str, **changes) -> SwinV2:
    """A published size on the meta device: shapes without memory."""
    size = SIZES[name]
    fields = {"window": size.window, "patch_size": size.patch_size, "extra_norm_every": size.extra_norm_every}
    with torch.device("meta"):
        return SwinV2(size.embed_dim, size.depths, size.heads, **{**fields, **changes})


def test_giant_has_2_998_billion_parameters_and_seven_extra_norms():
    giant = build("swin_v2_giant")
    assert sum(p.numel() for p in giant.parameters()) == 2_997_843_680
    extra = [name for name, _ in giant.named_parameters() if name.endswith("enorm.weight")]
    shared = build("swin_v2_giant", position_bias="shared")
    # One position MLP (2 -> 512 -> heads) for each stage instead of each block.
    mlps = [3 * 512 + 512 * heads for heads in (16, 32, 64, 128)]
    spared = sum((depth - 1) * mlp for depth, mlp in zip((2, 2, 42, 4), mlps, strict=True))
    assert sum(p.numel() for p in shared.parameters()) == 2_997_843_680 - spared == 2_996_208_352
    assert extra == [f"layers.2.blocks.{number}.enorm.weight" for number in (5, 11, 17, 23, 29, 35, 41)]


def test_extra_norm_ends_its_block(randomise):
    model = ours(extra_norm_every=2)
    randomise(model)
    outputs = []
    model.blocks()[1].register_forward_hook(lambda block, inputs, output: outputs.append((block, output)))
    model(torch.randn(1, 3, 32, 32))
    block, output = outputs[0]
    normed = (output - block.enorm.bias) / block.enorm.weight
    torch.testing.assert_close(normed.mean(-1), torch.zeros(normed.shape[:-1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(normed.std(-1, correction=0), torch.ones(normed.shape[:-1]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [(96, 96), (97, 130), (8, 100), (1, 1)])
def test_maps_and_tokens_have_the_promised_strides_and_grid(size):
    model = ours(window=6)
    init.initialise_all(model, 0)
    images = torch.randn(1, 3, *size)
    maps = model.forward_maps(images)
    assert model.strides == (2, 4, 8, 16)
    for stride, map_, channels in zip(model.strides, maps, (16, 32, 64, 128), strict=True):
        assert map_.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
    grid = model.grid(*size)
    assert maps[-1].shape[-2:] == grid
    tokens = model(images)
    assert tokens.shape == (1, model.num_prefix_tokens + grid[0] * grid[1], model.width)
    torch.testing.assert_close(tokens, model.norm(maps[-1].flatten(2).transpose(1, 2)))
    assert tokens.isfinite().all()


def test_an_image_that_fills_no_window_is_seen_to_its_last_pixel(randomise):
    model = ours(window=6)
    randomise(model)
    images = torch.randn(1, 3, 97, 130)
    changed = images.clone()
    changed[..., -1, -1] += 1
    last = model.forward_maps(images)[0][0, :, -1, -1]
    assert not torch.equal(last, model.forward_maps(changed)[0][0, :, -1, -1])


def per_block_name(name: str, block: int) -> str:
    return name.replace("rel_pos_bias", f"blocks.{block}.attn")


def test_shared_bias_is_one_mlp_per_stage_and_equals_copies_in_every_block(randomise, run):
    shared, copied = ours(position_bias="shared").double(), ours(position_bias="per_block").double()
    randomise(shared)
    mlps = {name.split(".cpb_mlp")[0] for name, _ in shared.named_parameters() if "cpb_mlp" in name}
    assert mlps == {f"layers.{stage}.rel_pos_bias" for stage in range(4)}
    weights = {}
    for name, parameter in shared.named_parameters():
        weights.update({per_block_name(name, block): parameter for block in range(2)})
    copied.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 48, 32, dtype=torch.float64)

    output, gradients = run(shared, shared, images)
    expected, expected_gradients = run(copied, copied, images)

    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    for name, gradient in gradients.items():
        total = sum(expected_gradients[key] for key in {per_block_name(name, block) for block in range(2)})
        torch.testing.assert_close(gradient, total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position_bias", ["per_block", "shared"])
def test_recompute_changes_nothing(position_bias, run):
    model = ours(drop_path=0.5, position_bias=position_bias)
    init.initialise_all(model, 0)
    for block in model.blocks():
        block.norm1.weight.data.fill_(1.0)
        block.norm2.weight.data.fill_(1.0)
    images = torch.randn(4, 3, 33, 48)

    keyed = partial(model, keys=sample_keys(0, 0, range(4)))
    output, gradients = run(keyed, model, images)
    apply_recompute(model, "all")
    calls = []
    for block in model.blocks():
        block.register_forward_pre_hook(lambda block, inputs: calls.append(block))
    again, gradients_again = run(keyed, model, images)

    assert calls == model.blocks() + model.blocks()[::-1], "forward, then each again on the way back"
    assert torch.equal(output, again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)
    model.eval()
    assert not torch.equal(output, model(images).flatten(0, 1)), "drop path dropped nothing"


def test_bf16_trains_and_follows_fp32(randomise, run):
    model = ours(window=6, position_bias="shared")
    randomise(model)
    assert not list(model.buffers())  # DeepSpeed's bf16 leaves buffers behind in fp32
    images = torch.randn(2, 3, 33, 48)
    expected, _ = run(model, model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = run(model, model, images)
    output, gradients = run(model.bfloat16(), model, images)
    assert output.dtype == torch.bfloat16
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for rounded in (output, mixed):
        similarity = torch.cosine_similarity(rounded.float().flatten(), expected.flatten(), dim=0)
        assert similarity > 0.99


@pytest.mark.parametrize("position_bias", ["per_block", "shared"])
def test_parameters_are_used_only_where_sharding_gathers_them(position_bias, randomise, gather_only_in_hooks):
    model = ours(position_bias=position_bias, extra_norm_every=2)
    randomise(model)
    images = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        tokens, maps = model(images), model.forward_maps(images)
        gather_only_in_hooks(model)
        assert torch.equal(model(images), tokens)
        assert all(torch.equal(a, b) for a, b in zip(model.forward_maps(images), maps, strict=True))


def test_position_mlp_and_logit_scale_have_no_weight_decay():
    without = ours(position_bias="shared").no_weight_decay()
    assert "layers.0.rel_pos_bias.cpb_mlp.2.weight" in without
    assert "layers.3.blocks.1.attn.logit_scale" in without
    assert not any("qkv" in name or "norm" in name for name in without)
