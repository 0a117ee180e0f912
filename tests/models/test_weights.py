"""Weights of one of our students come back whole, or the file is refused and the model stays as it was."""

import pytest
import torch
from safetensors.torch import save_file

from fd_scale.errors import BadInput
from fd_scale.models import init
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.weights.loading import load_weights


def model(seed: int, image_size: int = 32) -> ViT:
    built = ViT(16, 2, 2, image_size=image_size, patch_size=8)
    init.initialise_all(built, seed)
    return built


def swin(**changes) -> SwinV2:
    options = {"window": 4, "patch_size": 2, "drop_path": 0.0, **changes}
    built = SwinV2(8, (1, 2), (1, 2), **options)
    init.initialise_all(built, 0)
    return built


def saved(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_what_was_saved_comes_back_in_the_models_type(file, tmp_path):
    source, target = model(0), model(1).bfloat16()
    outcome = load_weights(target, saved(tmp_path / file, source.state_dict()))
    assert outcome.complete
    assert set(outcome.matched) == {name for name, _ in source.named_parameters()}
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert b.dtype == torch.bfloat16
        assert torch.equal(a.bfloat16(), b)


def without_last_block(tensors):
    for name in [name for name in tensors if name.startswith("blocks.1.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            without_last_block,
            r"hold \d+\.\d% of this model, at least 95% are needed; missing: 15 \(2 blocks\.1\.gamma_1-2,",
        ),
        (lambda t: t.pop("blocks.0.norm1.bias"), r"has no 1 \(blocks.0.norm1.bias\): it is torn"),
        (lambda t: t.pop("blocks.0.gamma_1"), r"has no 1 \(blocks.0.gamma_1\); set the student's neutral_gaps: true"),
        (
            lambda t: t.update({"blocks.0.attn.q_norm.weight": torch.zeros(2)}),
            r"no place for 1 \(blocks.0.attn.q_norm.weight\): its architecture is another one",
        ),
        (
            lambda t: t.update({"blocks.2.norm1.bias": torch.zeros(16)}),
            r"the file has 3 blocks and the student 2 blocks; choose the student's name of its size",
        ),
        (
            lambda t: t.update({"cls_token": torch.zeros(1, 1, 8)}),
            r"1 tensors have another shape, first cls_token: \(1, 1, 8\) in the file, \(1, 1, 16\) in the student",
        ),
        (
            lambda t: t.update({"patch_embed.proj.weight": torch.zeros(16, 3, 4, 4)}),
            r"patches are 4x4 px and the student's 8x8, which cannot be resized; set the student's patch_size: 4",
        ),
        (lambda t: t.update({"patch_embed.proj.weight": torch.zeros(16, 1, 8, 8)}), "images of 1 channels"),
        (
            lambda t: t.update({"pos_embed": torch.ones(1, 17, 16)}),
            "pos_embed.*set the student's position_bias: absolute",
        ),
        (lambda t: t.pop("cls_token"), "has no cls_token: every ViT student has a class token"),
        (lambda t: t.update({"rope.freqs": torch.ones(2)}), "no place for 1 .rope.freqs.: no student has rotary"),
        (lambda t: t.update({"reg_token": torch.ones(1, 4, 16)}), "reg_token.*class token alone"),
    ],
)
def test_a_file_that_differs_is_refused_in_one_line_and_the_model_untouched(change, line, tmp_path):
    tensors, target = model(0).state_dict(), model(1)
    change(tensors)
    before = {name: p.clone() for name, p in target.named_parameters()}
    with pytest.raises(BadInput, match=line) as error:
        load_weights(target, saved(tmp_path / "weights.safetensors", tensors))
    assert "weights.safetensors: " in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], p) for name, p in target.named_parameters())


def test_a_final_norm_may_be_absent_and_is_reported(tmp_path):
    tensors, target = model(0).state_dict(), model(1)
    del tensors["norm.weight"], tensors["norm.bias"]
    outcome = load_weights(target, saved(tmp_path / "weights.pth", tensors))
    assert outcome.missing == ("norm.weight", "norm.bias")
    with pytest.raises(BadInput, match=r"has no 2 \(norm.weight, norm.bias\); set the student's neutral_gaps"):
        load_weights(target, tmp_path / "weights.pth", whole=True)


def test_neutral_gaps_are_filled_with_what_does_nothing_when_asked_for(tmp_path):
    tensors, target = model(0).state_dict(), model(1)
    absent = {"blocks.0.gamma_1": 1.0, "blocks.1.attn.v_bias": 0.0, "norm.weight": 1.0}
    for name in absent:
        del tensors[name]
    outcome = load_weights(target, saved(tmp_path / "weights.pth", tensors), neutral=True)
    assert set(outcome.neutral) == set(absent)
    assert not outcome.missing
    for name, value in absent.items():
        assert (target.get_parameter(name) == value).all()


def test_names_that_nobody_knows_are_listed_and_ignored(tmp_path):
    tensors = {**model(0).state_dict(), "something.else": torch.zeros(2), "head.weight": torch.zeros(2)}
    outcome = load_weights(model(1), saved(tmp_path / "weights.pth", tensors))
    assert outcome.unknown == ("something.else",)
    assert "ignored as unknown: 1 (something.else)" in str(outcome)
    assert outcome.ignored["head.weight"] == "heads"


def test_the_windows_of_a_swin_are_demanded_where_the_file_does_not_say_them(tmp_path):
    path = saved(tmp_path / "weights.pth", swin().state_dict())
    with pytest.raises(BadInput, match=r"do not say in which windows .* set the student's pretrained_window"):
        load_weights(swin(), path)
    told = swin(pretrained_windows=(4, 2))
    load_weights(told, path)
    assert told.told_windows == (4, 2)


def test_a_norm_too_many_or_too_few_names_the_interval(tmp_path):
    windows = {"pretrained_windows": (4, 4)}
    with_norm = saved(tmp_path / "with.pth", swin(extra_norm_every=2, **windows).state_dict())
    without = saved(tmp_path / "without.pth", swin(**windows).state_dict())
    with pytest.raises(BadInput, match=r"enorm.*extra_norm_every: 2"):
        load_weights(swin(**windows), with_norm)
    with pytest.raises(BadInput, match=r"enorm.*extra_norm_every: 0"):
        load_weights(swin(extra_norm_every=2, **windows), without)
    with pytest.raises(BadInput, match=r"has no 4 .*enorm.*extra_norm_every: 2"):
        load_weights(swin(extra_norm_every=1, **windows), with_norm)


def test_a_bias_of_each_block_does_not_fit_one_that_is_shared(tmp_path):
    path = saved(tmp_path / "weights.pth", swin(pretrained_windows=(4, 4)).state_dict())
    with pytest.raises(BadInput, match=r"a bias of its own, which a shared one cannot hold.*position_bias: per_block"):
        load_weights(swin(position_bias="shared"), path)
    per_block = ViT(16, 2, 2, image_size=32, patch_size=8, position_bias="per_block")
    init.initialise_all(per_block, 0)
    with pytest.raises(BadInput, match=r"a bias of its own, which a shared one cannot hold.*position_bias: per_block"):
        load_weights(model(0), saved(tmp_path / "vit.pth", per_block.state_dict()))


def test_weights_of_the_other_family_are_refused(tmp_path):
    path = saved(tmp_path / "weights.pth", model(0).state_dict())
    with pytest.raises(BadInput, match="they are of a ViT, and the student is a SwinV2"):
        load_weights(swin(), path)


@pytest.mark.parametrize("around", ["module.", "_orig_mod.module.", "backbone.", "backbone.model.", "module.encoder."])
def test_prefixes_of_what_was_around_the_model_are_taken_off(around, tmp_path):
    source, target = model(0), model(1)
    tensors = {around + name: tensor for name, tensor in source.state_dict().items()}
    beside = around.removesuffix("encoder.") if around.startswith("module.") else around.split("backbone.")[0]
    tensors[f"{beside}decode_head.weight"] = torch.zeros(2)
    outcome = load_weights(target, saved(tmp_path / "weights.pth", {"state_dict": tensors, "meta": {"a": 1}}))
    assert outcome.unknown == (f"{beside}decode_head.weight",)
    assert "weights.pth (under state_dict, beside meta): " in str(outcome)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_of_two_models_in_one_mapping_the_one_without_a_prefix_is_taken_and_the_other_reported(tmp_path):
    tensors = model(0).state_dict()
    both = {**tensors, **{f"encoder.{name}": tensor for name, tensor in tensors.items()}}
    report = load_weights(model(1), saved(tmp_path / "weights.pth", both))
    assert set(report.unknown) == {f"encoder.{name}" for name in tensors}


def test_a_position_embedding_of_zeros_is_nothing_to_lose(tmp_path):
    tensors = {**model(0).state_dict(), "pos_embed": torch.zeros(1, 17, 16)}
    report = load_weights(model(1), saved(tmp_path / "weights.pth", tensors))
    assert report.ignored == {"pos_embed": "a position embedding of zeros"}
