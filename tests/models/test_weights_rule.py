"""Which tensors of a file are taken: one rule for teachers, students and conversion; and files that nobody can use."""

import math

import pytest
import timm
import torch

from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.vit import ViT
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.weights.reading import read_file
from fd_scale.models.zoo import build_student
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

TENSORS = {"blocks.0.attn.proj.weight": torch.ones(2, 2), "norm.bias": torch.ones(2)}
AVERAGE = {name: tensor + 1 for name, tensor in TENSORS.items()}


def saved(path, content):
    torch.save(content, path)
    return path


def prefixed(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"model": TENSORS, "model_ema": AVERAGE}, "model_ema"),  # DeiT
        ({"state_dict": TENSORS, "state_dict_ema": AVERAGE, "epoch": 3}, "state_dict_ema"),  # timm
        ({"model": TENSORS, "ema": {"module": AVERAGE, "decay": 0.99}}, "ema.module"),
        ({"state_dict": AVERAGE, "ema_state_dict": TENSORS, "message_hub": {}, "meta": {}}, "state_dict"),  # MMEngine
        ({"state_dict": TENSORS, "ema_state_dict": AVERAGE}, "ema_state_dict"),
        ({"student": TENSORS, "teacher": AVERAGE}, "teacher"),  # DINO
        (prefixed("online_model.", TENSORS) | prefixed("ema_model.", AVERAGE), "ema_model"),
        ({"state_dict": prefixed("model.", TENSORS) | prefixed("ema.", AVERAGE)}, "state_dict.ema"),
        ({"state_dict": AVERAGE, "state_dict_ema": None}, "state_dict"),
        ({"model": AVERAGE, "ema": {"decay": 0.99}}, "model"),
        (prefixed("model.", AVERAGE) | {"model_ema.decay": torch.ones(1), "model_ema.blocks0": torch.ones(1)}, ""),
    ],
)
def test_the_average_is_taken_where_the_file_has_one_and_the_key_is_named(content, key, tmp_path):
    file = read_file(saved(tmp_path / "file.pth", content))
    values = {name.removeprefix("model."): tensor for name, tensor in file.tensors.items()}
    assert all(torch.equal(values[name], tensor) for name, tensor in AVERAGE.items())
    assert file.key == key
    assert f"under {key}" in file.where if key else not file.where


def test_a_key_chooses_another_set_of_weights_and_one_that_is_not_there_is_refused(tmp_path):
    nested = {"state_dict": prefixed("net.", TENSORS) | prefixed("ema.", AVERAGE), "model_ema": {"module": AVERAGE}}
    path = saved(tmp_path / "file.pth", nested)
    for key, expected in {"state_dict.ema": AVERAGE, "state_dict.net": TENSORS, "model_ema": AVERAGE}.items():
        assert all(torch.equal(read_file(path, key).tensors[name], tensor) for name, tensor in expected.items()), key
    assert torch.equal(read_file(path, "raw").tensors["net.norm.bias"], TENSORS["norm.bias"])
    assert read_file(path, "model_ema").key == "model_ema.module"
    for key in ("model", "state_dict.model", "model_ema.module.blocks.0.x"):
        with pytest.raises(BadInput, match=f"holds no mapping under '{key}'; its keys: state_dict, model_ema"):
            read_file(path, key)


def test_a_teacher_and_a_student_begin_with_the_same_weights_of_a_file(tmp_path):
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    weights = model.state_dict()
    path = saved(tmp_path / "both.pth", {"model": weights, "model_ema": {n: w + 1 for n, w in weights.items()}})
    student = build_student(StudentConfig("timm:test_vit"), 32)
    for key, shift in ((None, 1), ("model", 0), ("raw", 0), ("model_ema", 1)):
        teacher = build_teacher(TeacherConfig(f"timm:test_vit.r160_in1k@{path}", key), 32)
        report = load_weights(student, path, key=key)
        for name, values in student.named_parameters():
            assert torch.equal(values, weights[name] + shift), (key, name)
            assert torch.equal(values, teacher.model.get_parameter(name)), (key, name)
        where = "under model_ema, beside model" if shift else "under model, beside model_ema"
        assert where in teacher.description
        assert where in str(report)


def test_a_key_without_a_file_is_refused():
    with pytest.raises(BadInput, match=r"teacher\.weights_key='raw' is for timm:NAME@PATH"):
        build_teacher(TeacherConfig("demo", "raw"), 32)


@pytest.fixture(scope="module")
def vit() -> ViT:
    model = ViT(16, 2, 2, image_size=32, patch_size=8, position_bias="absolute")
    initialise_all(model, 0)
    return model


AROUND = {
    "model.": "model.{}",
    "net.": "net.{}",
    "Lightning around compile": "model._orig_mod.{}",
    "DDP around a script's": "module.net.backbone.{}",
    "compile of each block": "blocks.{}._orig_mod.",
    "activation checkpointing of each block": "blocks.{}._checkpoint_wrapped_module.",
    "FSDP of the model and of each block": "_fsdp_wrapped_module.blocks.{}._fsdp_wrapped_module.",
    "DDP of each block": "blocks.{}.module.",
}


@pytest.mark.parametrize("around", AROUND)
def test_what_training_scripts_put_around_a_model_and_its_blocks_is_taken_off(around, vit, tmp_path):
    def name_of(name: str) -> str:
        if not AROUND[around].endswith("."):
            return AROUND[around].format(name)
        first, number, rest = (*name.split(".", 2), "", "")[:3]
        return AROUND[around].format(number) + rest if first == "blocks" else name

    tensors = {name_of(name): tensor for name, tensor in vit.state_dict().items()}
    again = ViT(16, 2, 2, image_size=32, patch_size=8, position_bias="absolute")
    beside = {"criterion.weight": torch.ones(1), "n_averaged": torch.ones(1)}
    report = load_weights(again, saved(tmp_path / "file.pth", {"state_dict": tensors | beside}))
    assert report.complete
    assert all(torch.equal(values, vit.get_parameter(name)) for name, values in again.named_parameters())


def test_a_timm_model_with_its_wrappers_keeps_its_classifier(tmp_path):
    model = timm.create_model("test_convnext", num_classes=3)
    tensors = prefixed("model._orig_mod.", model.state_dict())
    config = TeacherConfig(f"timm:test_convnext.r160_in1k@{saved(tmp_path / 'file.pth', tensors)}")
    teacher = build_teacher(config, 64)
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in teacher.model.named_parameters())


def test_weights_that_are_empty_or_not_finite_are_named(vit, tmp_path):
    tensors = vit.state_dict()
    spread = {name: torch.empty(0) for name in tensors}
    with pytest.raises(BadInput, match=rf"{len(spread)} of its {len(spread)} tensors are empty.* zero_to_fp32\.py"):
        read_file(saved(tmp_path / "zero3.pt", {"module": spread, "ds_version": "0.1"}))
    for value in (math.nan, math.inf):
        wrong = {**tensors, "blocks.1.attn.proj.weight": torch.full_like(tensors["blocks.1.attn.proj.weight"], value)}
        with pytest.raises(BadInput, match=r"1 of its \d+ tensors hold NaN or infinity: blocks\.1\.attn\.proj\.weight"):
            read_file(saved(tmp_path / "wrong.pth", {"model": wrong}))
    assert read_file(saved(tmp_path / "raw.pth", {"model": tensors, "model_ema": wrong}), "model").tensors
