"""Several teachers, and targets that need statistics, in real runs on two ZeRO-3 processes."""

import json
from pathlib import Path

import pytest
import torch
from tasks.running import SUMMATION, in_folder, losses, run
from teachers.tiny_models import model_of, save_teacher

from fd_scale.api import export
from fd_scale.export import load_student
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.storage import checkpoints_of

WIDTH = 24


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory) -> Path:
    """Of another width and grid than `teacher_file`: 4x4 where that and the student have 2x2."""
    name = "vit_tiny_patch16_224"
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = model_of(name, kwargs)
    facts = {"timm_model": name, "timm_kwargs": kwargs, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return save_teacher(model, tmp_path_factory.mktemp("other") / "other.safetensors", facts)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def with_other(arguments: list[str], teacher: Path, weight: float) -> list[str]:
    return [
        *arguments,
        f"more_teachers.other.spec=file:{teacher}",
        f"more_teachers.other.weight={weight}",
        "more_teachers.other.sharded=false",  # beside the first one's true
        "target.resize=bilinear",
    ]


def test_a_teacher_of_weight_0_changes_nothing_and_is_logged_and_recorded(finished, other_teacher, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    code, errors = run(with_other(in_folder(arguments, folder), other_teacher, 0))
    assert code == 0, errors
    assert losses(folder) == losses(whole)
    for entry in metrics(folder):
        assert entry["loss/teacher"] == pytest.approx(entry["loss"], rel=1e-6)
        assert 0 < entry["loss/other"] != entry["loss"]
    assert "loss/teacher" not in metrics(whole)[0]

    reader = CheckpointReader(checkpoints_of(folder), 8)
    single = CheckpointReader(checkpoints_of(whole), 8)
    assert reader.shape("more_heads.other.weight")[0] == WIDTH
    for name in single.names():
        assert torch.equal(reader.read(name), single.read(name)), name
    recorded = reader.record["more_teachers"]["other"]
    assert recorded["description"] == other_teacher.name
    assert len(recorded["sha256"]) == 64
    assert reader.record["teacher"] == single.record["teacher"]

    _, origin = load_student(export(folder, tmp_path / "student.safetensors"))
    assert origin["more_teachers"] == reader.record["more_teachers"]


def test_statistics_resume_as_uninterrupted_and_do_not_depend_on_ranks_and_micro_batches(
    finished, other_teacher, tmp_path
):
    """With PHI-S, which keeps what standardising keeps and a rotation."""
    _, arguments = finished
    arguments = with_other(arguments, other_teacher, 0.5)
    arguments += ["target.normalise=phi_s", "target.calibration_steps=2", "schedule.steps=5"]

    def folder(name: str, *more: str, nproc: int = 2) -> Path:
        code, errors = run([*in_folder(arguments, tmp_path / name), *more], nproc)
        assert code == 0, errors
        return tmp_path / name

    whole = folder("whole")
    folder("stopped", "run.stop_at=3")
    assert losses(folder("stopped")) == losses(whole)
    alone = losses(folder("alone", "train.micro_batch=4", nproc=1))
    assert alone == pytest.approx(losses(whole), rel=SUMMATION)

    reader = CheckpointReader(checkpoints_of(whole), 5)
    count = reader.read("other.phi_s.sums", "task")[1]
    assert count == 4 * 8 * 5  # four tokens an image of five global batches, of which the calibration saw two

    # a fork that changes the normalisation begins its statistics anew, with the batches that come
    more = [f"start.fork_from={whole}", "target.normalise=standardise", "schedule.steps=6"]
    reader = CheckpointReader(checkpoints_of(folder("fork", *more, nproc=1)), 6)
    assert reader.read("other.standardise.sums", "task")[:2].tolist() == [1, 4 * 8 * 2]
