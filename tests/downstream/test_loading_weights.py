"""Files into backbones: what fits is loaded, what is left out is said, what does not fit is refused."""

import json

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file

from fd_scale.errors import BadInput
from fd_scale.export import STUDENT_KEY, load_student
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.weights.windows import trained_windows
from fd_scale.models.zoo import build_student
from fd_scale_downstream.vit import MapNorm
from fd_scale_downstream.weights import load

IMAGE_SIZE = 64
STUDENTS = {
    "FDSwinV2": {"name": "swin_v2_nano", "patch_size": 4, "window": 6, "position_bias": "shared"},
    "FDViT": {"name": "vit_tiny", "position_bias": "absolute"},
}


@pytest.fixture
def exported(tmp_path):
    """The name of a backbone -> a file as `fd-scale export` writes it, with values that no initialisation gives."""

    def write(backbone: str):
        config = StudentConfig(**STUDENTS[backbone])
        student = build_student(config, IMAGE_SIZE)
        initialise_all(student, 1)
        generator = torch.Generator().manual_seed(1)
        tensors = {n: p + 0.1 * torch.randn(p.shape, generator=generator) for n, p in student.state_dict().items()}
        path = tmp_path / f"{backbone}.safetensors"
        save_file(
            tensors, path, metadata={STUDENT_KEY: json.dumps({"student": vars(config), "image_size": IMAGE_SIZE})}
        )
        return path

    return write


def test_an_exported_swin_computes_what_the_student_does(exported):
    path = exported("FDSwinV2")
    backbone = MODELS.build({"type": "FDSwinV2", "name": "swin_v2_nano", "weights": str(path)}).eval()
    backbone.init_weights()
    student, _ = load_student(path)
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        last = backbone(images)[-1]
        assert torch.equal(last.flatten(2).transpose(1, 2), student(images))


def test_an_exported_vit_computes_what_the_student_does_below_its_pyramid(exported):
    path = exported("FDViT")
    backbone = MODELS.build({"type": "FDViT", "name": "vit_tiny", "weights": str(path), "out_channels": 16}).eval()
    backbone.init_weights()
    student, _ = load_student(path)
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    seen = []
    backbone.pyramid[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(images)
        assert torch.equal(seen[0].flatten(2).transpose(1, 2), student(images)[:, 1:])


def test_an_exported_vit_fills_the_blocks_below_beits_pyramid(exported):
    path = exported("FDViT")
    backbone = MODELS.build({"type": "FDViT", "name": "vit_tiny", "pyramid": "beit", "weights": str(path)}).eval()
    backbone.init_weights()
    student, _ = load_student(path)
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        third = backbone(images)[2]  # of stride 16, which the pyramid leaves as it is
        student.map_depths = (8,) * 4
        assert torch.equal(third, student.forward_maps(images)[0])


def test_the_position_bias_keeps_the_windows_that_fitted_when_it_was_trained(exported):
    origin = {"student": STUDENTS["FDSwinV2"], "image_size": IMAGE_SIZE}
    assert trained_windows(origin) == (6, 6, 4, 2)
    options = {"type": "FDSwinV2", "name": "swin_v2_nano", "weights": str(exported("FDSwinV2"))}
    wider = MODELS.build({**options, "window": 12})
    assert [stage.blocks[0].window for stage in wider.model.layers] == [12] * 4
    assert [stage.blocks[0].attn.pretrained_window for stage in wider.model.layers] == [6, 6, 4, 2]


def test_report_names_what_is_missing_and_what_is_ignored(exported, tmp_path):
    tensors = load_file(exported("FDSwinV2"))
    del tensors["norm.bias"]
    tensors |= {"head.weight": torch.zeros(3), "layers.0.blocks.0.attn.relative_position_index": torch.zeros(3)}
    tensors["something.else"] = torch.zeros(3)
    save_file(tensors, tmp_path / "changed.safetensors")
    backbone = MODELS.build({"type": "FDSwinV2", **STUDENTS["FDSwinV2"], "pretrained_window": (6, 6, 4, 2)})
    backbone.init_weights()
    report = load(backbone.model, tmp_path / "changed.safetensors")
    assert f"{len(tensors) - 3} tensors matched" in report
    assert "missing: 1 (norm.bias)" in report
    assert "buffers, computed anew: 1 (" in report
    assert "heads: 1 (head.weight)" in report
    assert "ignored as unknown: 1 (something.else)" in report
    assert backbone.model.norm.bias.abs().sum() == 0
    assert torch.equal(backbone.model.norm.weight, tensors["norm.weight"])


def test_a_file_with_too_little_of_the_backbone_is_refused(exported, tmp_path):
    tensors = load_file(exported("FDSwinV2"))
    save_file({n: t for n, t in tensors.items() if not n.startswith("layers.3")}, tmp_path / "part.safetensors")
    backbone = MODELS.build({"type": "FDSwinV2", **STUDENTS["FDSwinV2"]})
    with pytest.raises(BadInput, match=r"hold \d+\.\d% of this model, at least 95% are.*layers\.3"):
        load(backbone.model, tmp_path / "part.safetensors")


def test_tensors_of_another_shape_are_refused_or_resized(exported):
    path = exported("FDViT")
    wider = MODELS.build({"type": "FDViT", "name": "vit_small", "position_bias": "absolute", "image_size": 64})
    with pytest.raises(BadInput, match=r"another shape, first cls_token: \(1, 1, 192\) in the file, \(1, 1, 384\)"):
        load(wider.model, path)
    smaller = MODELS.build({"type": "FDViT", "name": "vit_tiny", "position_bias": "absolute", "image_size": 32})
    assert "resized: 1 (pos_embed from 16 positions to 2x2)" in load(smaller.model, path)


def test_a_file_that_is_no_export_must_come_with_its_windows(exported, tmp_path):
    save_file(load_file(exported("FDSwinV2")), tmp_path / "other.safetensors")
    backbone = MODELS.build({"type": "FDSwinV2", **STUDENTS["FDSwinV2"]})
    with pytest.raises(BadInput, match="do not say in which windows the position bias was trained"):
        load(backbone.model, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=r"set pretrained_window=\(6, 6, 4, 2\) in the config's `backbone`"):
        load(backbone.model, exported("FDSwinV2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "FDSwinV2", "name": "swin_v2_tiny"}, "of a swin_v2_nano, but the backbone's name is 'swin_v2_tiny'"),
        ({"type": "FDSwinV2", "name": "swin_v2_nano", "weights": "nowhere.safetensors"}, "no weights file at nowhere"),
        ({"type": "FDViT", "name": "vit_tiny", "weights": None}, "needs image_size"),
    ],
)
def test_contradictions_are_refused_before_anything_is_trained(exported, options, message):
    with pytest.raises(BadInput, match=message):
        MODELS.build({"weights": str(exported("FDSwinV2")), **options})


def test_map_norm_is_layer_norm_over_channels():
    maps = torch.randn(2, 8, 3, 5)
    normed = MapNorm(8)(maps)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.var(dim=1, correction=0), torch.ones(2, 3, 5), atol=1e-3, rtol=0)
