"""Teachers that timm has no name for: EsViT's checkpoints as they are published, our own models, exported students."""

import argparse
import json
import re
from dataclasses import asdict
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import model_of

from fd_scale.api import fetch_teacher
from fd_scale.errors import BadInput
from fd_scale.models import init
from fd_scale.models.config import StudentConfig
from fd_scale.models.zoo import build_student
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

ESVIT = "fd_scale:esvit_swin_tiny_window14"
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def built(spec: str, image_size: int, **settings):
    return build_teacher(TeacherConfig(spec, **settings), image_size)


@pytest.fixture(scope="module")
def esvit(tmp_path_factory):
    """(the model as EsViT computes it, a checkpoint as its training writes it)."""
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    model = model_of("swin_tiny_patch4_window7_224", {"window_size": 14, "norm_layer": norm, "num_classes": 0})
    teacher = {"head.mlp.0.weight": torch.zeros(4, 4), "head_dense.last_layer.weight_v": torch.zeros(4, 4)}
    teacher["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(196, 196, dtype=torch.long)
    for name, tensor in model.state_dict().items():
        # The published Swin merges patches at the end of a stage, timm at the start of the next.
        name = re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        teacher[name] = tensor
    student = {name: torch.zeros_like(tensor) for name, tensor in teacher.items()}
    path = tmp_path_factory.mktemp("esvit") / "checkpoint_best.pth"
    wrapped = {
        who: {f"module.{name}": t for name, t in tensors.items()}
        for who, tensors in (("student", student), ("teacher", teacher))
    }
    torch.save({**wrapped, "epoch": 300, "args": argparse.Namespace(arch="swin")}, path)
    return model, path


@torch.no_grad()
def test_esvit_is_read_from_the_checkpoint_of_its_training(esvit):
    model, path = esvit
    teacher = built(f"{ESVIT}@{path}", 224)
    assert (teacher.mean, teacher.std) == (tuple(IMAGENET["mean"]), tuple(IMAGENET["std"]))
    assert teacher.licence == "MIT"
    assert teacher.grid(224, 224) == (7, 7)
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(teacher(images), model.forward_features(images).flatten(1, 2))


def test_esvits_weights_in_another_size_of_it_are_refused(esvit):
    _, path = esvit
    with pytest.raises(BadInput, match="does not hold the weights of esvit_swin_base_window14"):
        built(f"fd_scale:esvit_swin_base_window14@{path}", 224)


@pytest.fixture
def student(tmp_path):
    """(a student with weights, a file of it as `fd-scale export` writes them)."""

    def make(config: StudentConfig, image_size: int, **pixels):
        model = build_student(config, image_size).eval()
        init.initialise_all(model, 0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        path = tmp_path / "student.safetensors"
        origin = {
            "student": asdict(config),
            "image_size": image_size,
            "pixels": pixels or IMAGENET,
            "teacher": {"licence": "cc-by-nc-4.0"},
        }
        save_file(dict(model.named_parameters()), path, metadata={"fd_scale_student": json.dumps(origin)})
        return model, path

    return make


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        StudentConfig("swin_v2_nano", position_bias="shared", extra_norm_every=2),
        StudentConfig("vit_tiny", position_bias="per_block"),
        StudentConfig("timm:test_convnext"),
    ],
    ids=lambda config: config.name,
)
def test_an_exported_student_is_a_teacher(student, config):
    model, path = student(config, 64)
    teacher = built(f"file:{path}", 64)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(teacher(images), model(images))
    assert teacher.num_prefix_tokens == model.num_prefix_tokens
    assert teacher.licence == "distilled; its teacher's: cc-by-nc-4.0"
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_an_exported_student_brings_its_own_pixel_statistics(student):
    _, path = student(StudentConfig("vit_tiny"), 32, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert built(f"file:{path}", 32).mean == (0.1, 0.2, 0.3)


@torch.no_grad()
@pytest.mark.parametrize("position_bias", ["per_block", "shared"])
def test_our_own_models_are_teachers_whichever_bias_their_file_holds(student, tmp_path, position_bias):
    model, path = student(StudentConfig("swin_v2_nano", position_bias=position_bias), 96)
    staged = tmp_path / "staged.safetensors"
    images = torch.randn(1, 3, 96, 96)
    expected = model(images)
    assert torch.equal(built(f"fd_scale:swin_v2_nano@{path}", 96)(images), expected)
    fetch_teacher(f"fd_scale:swin_v2_nano@{path}", staged)
    assert torch.equal(built(f"file:{staged}", 96)(images), expected)


def test_a_vit_of_ours_needs_its_pixel_statistics_named(student):
    _, path = student(StudentConfig("vit_tiny"), 32)
    with pytest.raises(BadInput, match=r"set teacher\.pixels to one of imagenet, clip, half"):
        built(f"fd_scale:vit_tiny@{path}", 32)
    assert built(f"fd_scale:vit_tiny@{path}", 32, pixels="clip").mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("spec", "pixels", "line"),
    [
        ("fd_scale:swin_v2_gaint@x.pth", None, "near: swin_v2_giant"),
        ("fd_scale:swin_v2_nano@absent.pth", None, "no weights file at absent.pth"),
        ("timm:test_vit.r160_in1k", "clip", r"teacher.pixels='clip' is for fd_scale:NAME@PATH"),
        ("fd_scale:vit_tiny@x.pth", "webp", "one of imagenet, clip, half"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(spec, pixels, line):
    with pytest.raises(BadInput, match=line) as caught:
        built(spec, 96, pixels=pixels)
    assert "\n" not in str(caught.value)


def test_a_size_that_the_stride_does_not_divide_names_the_next():
    with pytest.raises(BadInput, match="200 pixels are not divisible by its stride of 32; use 192 or 224"):
        built(f"{ESVIT}@x.pth", 200)
