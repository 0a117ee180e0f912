"""`fd-scale convert`: a published file to one that everything of ours reads."""

import argparse
import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer

from fd_scale import api
from fd_scale.cli import main
from fd_scale.errors import BadInput
from fd_scale.export import STUDENT_KEY, load_student
from fd_scale.models import init
from fd_scale.models.attention import relative_coordinates
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.loading import fitted_weights, load_weights
from fd_scale.models.zoo import build_student

NANO = {"embed_dim": 24, "depths": (1, 1, 2, 2), "num_heads": (1, 2, 4, 8), "patch_size": 2}


def timm_nano(**changes) -> SwinTransformerV2:
    torch.manual_seed(0)
    options = {"img_size": 96, "window_size": 6, "num_classes": 5, **NANO, **changes}
    return SwinTransformerV2(**options).eval()


def microsofts(model: SwinTransformerV2, window: int, trained: tuple[int, ...], masked: bool = True) -> dict:
    """timm's tensors as Microsoft saves them: the merging moved by a stage, and the buffers."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        parts = name.replace("head.fc", "head").split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        tensors[".".join(parts)] = tensor
    for stage, depth in enumerate(NANO["depths"]):
        for block in range(depth):
            table = relative_coordinates((window, window), trained[stage], torch.device("cpu"))
            side = 2 * window - 1
            tensors[f"layers.{stage}.blocks.{block}.attn.relative_coords_table"] = table.view(1, side, side, 2)
    return {"model": tensors, "config": argparse.Namespace(x=1), "max_accuracy": 1.0}


@pytest.fixture
def shell(capsys):
    """Words after `fd-scale convert` -> exit code, standard output, the lines that are said of what went wrong."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["convert", *map(str, words)])
        said = capsys.readouterr()
        return ended.value.code, said.out, [line for line in said.err.splitlines() if line.startswith("fd-scale: ")]

    return run


def test_the_verb_writes_a_student_that_computes_what_the_file_did(shell, tmp_path):
    model = timm_nano()
    torch.save(microsofts(model, 6, (6, 6, 6, 6)), tmp_path / "published.pth")
    out = tmp_path / "nano.safetensors"
    code, printed, errors = shell(tmp_path / "published.pth", out, "--image-size", 96, "--licence", "MIT")
    assert code == 0, errors
    assert "Microsoft's SwinV2" in printed
    assert printed.splitlines()[-1] == str(out)

    student, origin = load_student(out)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = model.forward_features(images).flatten(1, 2)
        torch.testing.assert_close(student(images), expected, rtol=0, atol=1e-4)
    assert origin["student"]["name"] == "swin_v2_nano"
    assert origin["student"]["pretrained_window"] == [6, 6, 6, 6]
    assert origin["converted"]["licence"] == "MIT"
    digest = hashlib.sha256((tmp_path / "published.pth").read_bytes()).hexdigest()
    assert origin["converted"]["sha256"] == digest


def test_the_result_starts_a_student_and_says_its_windows(tmp_path):
    torch.save(microsofts(timm_nano(), 6, (6, 6, 6, 3)), tmp_path / "published.pth")
    out = tmp_path / "nano.safetensors"
    api.convert(tmp_path / "published.pth", out, image_size=96)
    with torch.device("meta"):
        outline = build_student(StudentConfig("swin_v2_nano"), 96)
        told = build_student(StudentConfig("swin_v2_nano", pretrained_window=(6, 6, 6, 3)), 96)
    assert fitted_weights(told, out, image_size=96).report.complete
    with pytest.raises(BadInput, match=r"set the student's pretrained_window: \[6, 6, 6, 3\]"):
        fitted_weights(outline, out, image_size=96)
    with pytest.raises(BadInput, match="are an export, or converted already: take them as they are"):
        api.convert(out, tmp_path / "again.safetensors")


def test_a_vit_keeps_its_positions_and_tells_its_image_size(tmp_path):
    torch.manual_seed(0)
    reference = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=192, depth=12, num_heads=3, num_classes=2
    ).eval()
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "deit.pth")
    out = tmp_path / "tiny.safetensors"
    with pytest.raises(
        BadInput, match=r"has no 24 .*gamma_1-2\); set the student's neutral_gaps: true \(converting: --neu"
    ):
        api.convert(tmp_path / "deit.pth", out)
    assert not out.exists()
    report = api.convert(tmp_path / "deit.pth", out, neutral_gaps=True)
    assert len(report.neutral) == 24
    student, origin = load_student(out)
    assert (origin["student"]["name"], origin["student"]["position_bias"]) == ("vit_tiny", "absolute")
    assert origin["image_size"] == 64
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(student(images), reference.forward_features(images), rtol=0, atol=1e-4)


def test_what_the_file_does_not_say_is_asked_for_in_one_line(shell, tmp_path):
    model = timm_nano(pretrained_window_sizes=(3, 3, 3, 3))
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    out = tmp_path / "nano.safetensors"
    for options, line in (
        ((), "do not say for which images they were trained; give --image-size"),
        (("--image-size", 96), "do not say in which windows the position bias was trained"),
        (("--image-size", 96, "--student", "swin_v2_tiny"), "those of a swin_v2_nano, not of a swin_v2_tiny"),
        (("--image-size", 96, "--pretrained-window", 3), "is not one for each of 4 stages"),
    ):
        code, _, errors = shell(tmp_path / "timm.pth", out, *options)
        assert code == 2
        assert len(errors) == 1
        assert line in errors[0]
    code, _, errors = shell(tmp_path / "timm.pth", out, "--image-size", 96, "--pretrained-window", 3, 3, 3, 3)
    assert code == 0, errors
    with safe_open(out, framework="pt") as file:
        origin = json.loads(file.metadata()[STUDENT_KEY])
    assert origin["student"]["pretrained_window"] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"layers.0.blocks.0.attn.logit_scale": torch.zeros(1, 1, 1)}, r"no patch_embed\.proj\.weight"),
        ({"fc.weight": torch.zeros(1)}, "names are those of no SwinV2 or ViT"),
        (
            {
                "layers.0.blocks.0.attn.logit_scale": torch.zeros(14, 1, 1),
                "patch_embed.proj.weight": torch.zeros(448, 3, 4, 4),
            },
            r"no student is a SwinV2 of 448 channels, depths \(1,\) and heads \(14,\)",
        ),
        (
            {"blocks.0.attn.qkv.weight": torch.zeros(3, 1), "patch_embed.proj.weight": torch.zeros(5, 3, 4, 4)},
            "no student is a ViT of 5 channels and 1 blocks",
        ),
    ],
)
def test_a_file_of_no_student_is_refused(content, line, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(BadInput, match=line):
        api.convert(tmp_path / "file.pth", tmp_path / "out.safetensors")
    with pytest.raises(BadInput, match=r"out\.pth: converted weights are a safetensors file; name it out\.safetensors"):
        api.convert(tmp_path / "file.pth", tmp_path / "out.pth")


def test_an_export_tells_its_windows_to_whatever_loads_it(tmp_path):
    """At 32 px the maps of the last stages are smaller than the window, so that they were trained with smaller ones."""
    config = StudentConfig("swin_v2_nano")
    student = build_student(config, 32)
    init.initialise_all(student, 0)
    path = tmp_path / "export.safetensors"
    save_file(
        student.state_dict(), path, metadata={STUDENT_KEY: json.dumps({"student": vars(config), "image_size": 32})}
    )
    larger = build_student(config, 96)
    load_weights(larger, path)
    assert [stage.blocks[0].attn.pretrained_window for stage in larger.layers] == [6, 6, 4, 2]
    save_file(student.state_dict(), path, metadata={STUDENT_KEY: "{"})
    with pytest.raises(BadInput, match="metadata 'fd_scale_student' is not what an export says of itself"):
        load_weights(larger, path)
