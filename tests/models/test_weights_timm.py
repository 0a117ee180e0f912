"""Weights with timm's names compute in our students what they compute in timm, in fp64."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer

from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.weights.fitting import fit
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.weights.timm_loading import load_from_hub
from fd_scale.models.weights.timm_source import timm_weights, weights_of
from fd_scale.models.zoo import build_student

PLAIN = {"img_size": 32, "patch_size": 8, "num_classes": 3, "embed_dim": 48, "depth": 3, "num_heads": 3}
IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def vit(position_bias="absolute", **changes) -> ViT:
    options = {"image_size": 32, "patch_size": 8, "drop_path": 0.0, **changes}
    return ViT(48, 3, 3, position_bias=position_bias, **options).double().eval()


def swin(**changes) -> SwinV2:
    return SwinV2(16, (2, 2), (1, 2), **{"window": 4, "patch_size": 2, "drop_path": 0.0, **changes}).double().eval()


def timm_swin(**changes) -> SwinTransformerV2:
    options = {"img_size": 32, "patch_size": 2, "window_size": 4, "drop_path_rate": 0.0, "num_classes": 3, **changes}
    return SwinTransformerV2(embed_dim=16, depths=(2, 2), num_heads=(1, 2), **options)


def loaded(student, reference, randomise, path, **options):
    """The report, after both have the same weights by way of a file with the reference's names."""
    randomise(reference.double().eval())
    torch.save({"state_dict": reference.state_dict(), "arch": "x"}, path)
    return load_weights(student, path, **options)


def assert_equal_tokens(student, reference, images=IMAGES):
    with torch.no_grad():
        expected = reference.forward_features(images)
        expected = expected.flatten(1, 2) if expected.dim() == 4 else expected
        torch.testing.assert_close(student(images), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"init_values": 0.1, "no_embed_class": True}])
def test_a_vit_of_timm_with_a_trained_bias_of_the_keys(options, randomise, tmp_path):
    """The softmax cancels the bias of the keys, so that nothing is lost with it."""
    student, reference = vit(), VisionTransformer(**PLAIN, **options)
    report = loaded(student, reference, randomise, tmp_path / "vit.pth", neutral=True)
    assert reference.blocks[0].attn.qkv.bias[48:96].abs().max() > 0.1
    assert len(report.neutral) == (0 if options else 6)
    assert report.unknown == ()
    assert "a bias of the keys was dropped in 3 blocks" in str(report)
    assert_equal_tokens(student, reference)


@pytest.mark.parametrize("ours", ["shared", "per_block"])
def test_a_beit_of_timm_with_a_shared_bias(ours, randomise, tmp_path):
    student = vit(ours)
    reference = Beit(**PLAIN, init_values=0.1, use_shared_rel_pos_bias=True, use_abs_pos_emb=False, global_pool="token")
    assert loaded(student, reference, randomise, tmp_path / "beit.pth").complete
    assert_equal_tokens(student, reference)


def test_a_swin_of_timm_in_the_windows_it_was_trained_in(randomise, tmp_path):
    student, reference = swin(pretrained_windows=(3, 2)), timm_swin(pretrained_window_sizes=(3, 2))
    report = loaded(student, reference, randomise, tmp_path / "swin.pth")
    assert report.complete
    assert report.format == "timm's SwinV2"
    assert_equal_tokens(student, reference)
    with pytest.raises(BadInput, match="do not say in which windows"):
        load_weights(swin(), tmp_path / "swin.pth")


@pytest.mark.parametrize(("pretrained", "windows"), [((3, 2), (3, 2)), ((0, 0), (4, 4))])
def test_a_timm_model_itself_says_the_windows(pretrained, windows):
    weights = weights_of(timm_swin(pretrained_window_sizes=pretrained), "timm:x")
    assert weights.trained_windows == windows
    assert fit(swin(), weights.tensors, trained_windows=weights.trained_windows).trained_windows == windows


def test_a_bias_of_the_keys_counts_in_cosine_attention_and_is_refused(randomise):
    student, reference = swin(pretrained_windows=(4, 4)), timm_swin().double().eval()
    randomise(reference)
    with torch.no_grad():
        before = reference.forward_features(IMAGES)
        for block in reference.layers[0].blocks:
            block.attn.k_bias.fill_(0.5)
        assert (reference.forward_features(IMAGES) - before).abs().max() > 1e-3
    tensors = dict(reference.state_dict())
    for stage, block in ((s, b) for s in range(2) for b in range(2)):
        attention = f"layers.{stage}.blocks.{block}.attn"
        query, value = tensors.pop(f"{attention}.q_bias"), tensors.pop(f"{attention}.v_bias")
        tensors[f"{attention}.qkv.bias"] = torch.cat((query, torch.zeros_like(query), value))
    assert fit(student, tensors).report.complete  # a bias of zeros can go
    tensors["layers.0.blocks.1.attn.qkv.bias"][16:32] = 0.5
    with pytest.raises(
        BadInput, match=r"layers\.0\.blocks\.1\.attn\.qkv\.bias is a bias of the keys .* cannot be dropped"
    ):
        fit(student, tensors)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("vit_base_patch16_clip_quickgelu_224", "QuickGELU|eps"),
        ("vit_base_patch16_clip_224", "eps 1e-05"),
        ("eva02_tiny_patch14_224", "Eva is no SwinV2, BEiT or plain ViT"),
        ("resnet18", "ResNet is no SwinV2"),
        ("swinv2_cr_tiny_224", "no SwinV2"),
        ("vit_base_patch16_rpn_224", "ResPostBlock|eps|VisionTransformerRelPos"),
    ],
)
def test_timm_models_that_no_student_computes_are_refused(name, line):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(BadInput, match=line):
        weights_of(model, "timm:x")


SIZES = [
    ("vit_base_patch16_224.mae", "vit_base", {"position_bias": "absolute"}, 224),
    ("vit_small_patch16_224.dino", "vit_small", {"position_bias": "absolute"}, 224),
    ("vit_large_patch16_224.augreg_in21k", "vit_large", {"position_bias": "absolute"}, 384),
    ("deit3_small_patch16_224", "vit_small", {"position_bias": "absolute"}, 224),
    ("vit_small_patch14_dinov2", "vit_small", {"position_bias": "absolute", "patch_size": 14}, 224),
    ("beit_base_patch16_224", "vit_base", {"position_bias": "per_block"}, 384),
    ("swinv2_tiny_window8_256", "swin_v2_tiny", {}, 256),
    ("swinv2_base_window12to16_192to256", "swin_v2_base", {}, 256),
    ("swinv2_large_window12to24_192to384", "swin_v2_large", {}, 384),
]


@pytest.mark.parametrize(("name", "student", "options", "image_size"), SIZES)
def test_published_sizes_find_their_place_in_the_student_of_that_size(name, student, options, image_size):
    with torch.device("meta"):
        source = weights_of(timm.create_model(name, num_classes=0), name)
        outline = build_student(StudentConfig(student, **options), image_size)
    ones = {name: torch.ones(1).expand(tensor.shape) for name, tensor in source.tensors.items()}  # take no memory
    report = fit(outline, ones, neutral=True, trained_windows=source.trained_windows).report
    assert report.complete
    assert report.unknown == ()
    assert report.share > 0.999


def test_names_unknown_to_timm_and_names_that_cannot_be_fetched_are_one_line(monkeypatch):
    with pytest.raises(BadInput, match=r"no model 'swinv2_bse_window8_256'; near: swinv2_base_window8_256"):
        timm_weights("swinv2_bse_window8_256")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="cannot fetch timm:swinv2_tiny_window8_256") as error:
        timm_weights("swinv2_tiny_window8_256")
    assert "\n" not in str(error.value)


def test_published_weights_that_are_not_finite_are_refused(monkeypatch, tmp_path):
    """The hub's cache on this machine holds a damaged file."""
    name = "test_vit.r160_in1k"
    weights = timm.create_model(name).state_dict()
    weights["blocks.1.attn.proj.bias"][3] = torch.nan
    cached = tmp_path / f"models--timm--{name}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(weights, cached / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for load in (timm_weights, lambda name: load_from_hub(name, {})):
        with pytest.raises(
            BadInput, match=rf"timm:{name}: 1 of its .* hold NaN or infinity: blocks\.1\.attn\.proj\.bias"
        ):
            load(name)
