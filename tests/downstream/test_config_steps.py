"""Every config of `downstream/configs` takes real steps with its own keys, made smaller by `downstream.smaller`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from downstream.mini_data import write_mini_data
from downstream.smaller import STEPS, TRAINED_ON, smaller
from mmengine.config import Config
from support.helpers import REPOSITORY

CONFIGS = sorted((REPOSITORY / "downstream/configs").rglob("*.py"))
SHARED = REPOSITORY.parent / "shared/data"


@pytest.fixture
def _data(tmp_path, monkeypatch):
    """Photographs where they are, else made images."""
    folders = (SHARED / "coco_mini", SHARED / "coco_mini_semantic")
    if not all(folder.is_dir() for folder in folders):
        folders = write_mini_data(tmp_path / "data", images=TRAINED_ON)
    for name, folder in zip(("COCO_MINI", "COCO_MINI_SEMANTIC"), folders, strict=True):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_data")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_resumes_as_uninterrupted_and_its_weights_test_as_inside(path, tmp_path):
    config = smaller(path, tmp_path)
    in_shards = Config.fromfile(config).get("runner_type") == "FDRunner"
    training = ["train", config, "--work-dir"]
    if in_shards:
        training = ["launch", "--nproc", "2", "--", *training]
    run(*training, tmp_path / "whole")
    whole = logged(tmp_path / "whole")
    assert [entry["iter"] for entry in whole["training"]] == list(range(1, STEPS + 1))
    assert all(0 < entry["loss"] < 1e3 and 0 < entry["grad_norm"] < 1e4 for entry in whole["training"]), whole

    leave_out_last_step(tmp_path / "whole", tmp_path / "run", in_shards)
    run(*training, tmp_path / "run", "--resume")
    resumed = logged(tmp_path / "run")
    assert without_times(resumed["training"]) == without_times(whole["training"][-1:])
    assert resumed["validation"] == whole["validation"] != {}

    weights = [exported(tmp_path / name, in_shards) for name in ("whole", "run")]
    trained, again, before = (
        torch.load(file, weights_only=in_shards)["state_dict"]
        for file in (*weights, exported(tmp_path / "whole", in_shards, step=1))
    )
    assert all(torch.equal(again[name], value) for name, value in trained.items())
    assert not all(torch.equal(before[name], value) for name, value in trained.items())

    run(
        "test",
        config,
        "--checkpoint",
        weights[1],
        "--work-dir",
        tmp_path / "test",
        "--cfg-options",
        "runner_type=Runner",
    )
    assert logged(tmp_path / "test")["validation"] == whole["validation"]


def run(*words: object) -> None:
    command = [sys.executable, "-m", "fd_scale_downstream", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def logged(work_dir: Path) -> dict:
    """What the newest start of a run has logged: of every iteration, and of the only validation or test."""
    folder = max(path.parent for path in work_dir.glob("*/vis_data"))
    path = next(folder.rglob("scalars.json"), None) or next(folder.glob("*.json"))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    training = [entry for entry in entries if "loss" in entry]
    (validation,) = [entry for entry in entries if "loss" not in entry]
    return {"training": training, "validation": without_times([validation])[0]}


def without_times(entries: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k not in ("time", "data_time", "memory", "step")} for entry in entries]


def leave_out_last_step(whole: Path, run: Path, in_shards: bool) -> None:
    """A run that was killed after the save of the step before the last."""
    if in_shards:
        shutil.copytree(whole / "checkpoints", run / "checkpoints")
        shutil.rmtree(run / f"checkpoints/step_{STEPS:08}")
    else:
        run.mkdir()
        last = run / f"iter_{STEPS - 1}.pth"
        shutil.copy(whole / last.name, last)
        (run / "last_checkpoint").write_text(str(last))


def exported(work_dir: Path, in_shards: bool, step: int = STEPS) -> Path:
    """The file that a user goes on with."""
    if not in_shards:
        return work_dir / f"iter_{step}.pth"
    file = work_dir / f"exported_{step}.pth"
    run("export", work_dir, file, "--step", step)
    return file
