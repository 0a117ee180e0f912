"""A timm model as the student of a real run on two ZeRO-3 processes, exported under timm's own names."""

import timm
import torch
from safetensors.torch import load_file
from support.helpers import tiny_arguments
from tasks.running import losses, run

from fd_scale.api import export
from fd_scale.export import load_student

MODEL = "test_vit"


def test_a_timm_student_learns_and_its_export_is_timms(shards, teacher_file, tmp_path):
    arguments = [
        *tiny_arguments(shards, teacher_file, tmp_path / "run"),
        f"student.name=timm:{MODEL}",
        "student.position_bias=null",
        "student.residual_norm_init=null",
        "schedule.steps=4",
    ]
    code, errors = run(arguments)
    assert code == 0, errors
    values = losses(tmp_path / "run")
    assert values[4] < values[1]

    file = export(tmp_path / "run", tmp_path / "student.safetensors")
    student, origin = load_student(file)
    assert origin["student"]["name"] == f"timm:{MODEL}"
    plain = timm.create_model(MODEL, num_classes=0, img_size=32).eval()
    plain.load_state_dict(load_file(file), strict=True)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(student(images), plain.forward_features(images))
