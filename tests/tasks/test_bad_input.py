"""Every expected mistake, through `fd-scale launch` on two processes: exit 2, one line, nothing lost."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
from safetensors.torch import save_file
from support.helpers import small_disk
from tasks.running import losses, run

from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.weights.sealed import STUDENT_KEY
from fd_scale.models.zoo import build_student
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.storage import open_storage


def assert_refused(arguments: list[str], line: str) -> None:
    code, errors = run(arguments)
    assert code == 2, errors
    said = [entry for entry in errors.splitlines() if entry.startswith("fd-scale: ")]
    assert len(said) == 1, errors
    assert line in said[0], said[0]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.gobal_batch=8"], "did you mean `train.global_batch`?"),
        (["train.micro_batch=3"], "global_batch 8 is not divisible by 2 ranks x train.micro_batch 3"),
        (["train.global_batch=64", "train.micro_batch=32"], "holds 48 samples, fewer than one global batch of 64"),
        (["teacher.spec=timm:vit_smal_patch16_224.dino"], "vit_small_patch16_224.dino"),
        (["teacher.spec=nobody"], "unknown teacher 'nobody'"),
        (["student.name=swin_v2_gaint"], "swin_v2_giant"),
        (["student.patch_size=4"], "teacher's token grid is 2x2 and the student's 1x1"),
        (["data.train=/nowhere"], "/nowhere holds no manifest.json"),
        (["parallel.deepspeed=nowhere.json"], "nowhere.json cannot be read"),
        (["schedule.epochs=3"], "schedule.epochs=3"),
        (["student.weights=/nowhere.safetensors"], "/nowhere.safetensors"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else None,
)
def test_a_mistake_in_the_config(tiny_run, overrides, line):
    assert_refused([*tiny_run, *overrides], line)


def test_weights_whose_position_bias_is_of_other_windows(tiny_run, tmp_path):
    """They were trained where the maps of the last stages were larger; the configuration has to say so."""
    config = StudentConfig("swin_v2_nano", position_bias="shared")
    student = build_student(config, 96)
    initialise_all(student, 0)
    origin = {STUDENT_KEY: json.dumps({"student": vars(config), "image_size": 96})}
    save_file(student.state_dict(), tmp_path / "student.safetensors", metadata=origin)
    line = "at 32 px the student has [6, 6, 4, 2]; set the student's pretrained_window: [6, 6, 6, 6]"
    assert_refused([*tiny_run, f"student.weights={tmp_path / 'student.safetensors'}"], line)


def test_a_torn_tar_and_zero_shards(tiny_run, shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    torn = copy / "shard-000001.tar"
    torn.write_bytes(torn.read_bytes()[:5000])
    assert_refused([*tiny_run, f"data.train={copy}"], "shard-000001.tar is torn: 5000 bytes")
    (copy / "manifest.json").write_text('{"shards": [], "seed": 0, "source": {}}')
    assert_refused([*tiny_run, f"data.train={copy}"], "lists zero shards")


def test_the_folder_of_another_run_and_of_another_model(tiny_run):
    code, errors = run([*tiny_run, "schedule.steps=4"])
    assert code == 0, errors
    assert_refused([*tiny_run, "schedule.steps=4", "train.seed=5"], "belongs to another run (train.seed: 0 there, 5")
    # as if someone had edited the record: the checkpoint itself still says no
    folder = next(word.removeprefix("run.folder=") for word in tiny_run if word.startswith("run.folder="))
    config = f"{folder}/config.yaml"
    with open(config) as file:
        text = file.read()
    with open(config, "w") as file:
        file.write(text.replace("position_bias: shared", "position_bias: per_block"))
    changed = [*tiny_run, "schedule.steps=4", "student.position_bias=per_block"]
    assert_refused(changed, "step_00000004 is of another run (student.position_bias: shared there, per_block here)")
    fork = [f"run.folder={folder}_fork", f"start.fork_from={folder}"]
    assert_refused([*changed, *fork], "step_00000004 is of another model: student.")


def test_a_folder_that_holds_something_else(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    assert_refused(tiny_run, "holds files but no config.yaml of a run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "x"


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(tiny_run, tmp_path):
    arguments = [*tiny_run, "schedule.base_lr=1e30", "schedule.warmup_base_lr=1e30", "run.save_every=1"]
    assert_refused(arguments, "in samples shard-00000")
    # what was saved is from before it
    storage = open_storage(tmp_path / "run" / "checkpoints")
    for step in storage.steps():
        reader = CheckpointReader(storage, step)
        assert all(reader.read(name).isfinite().all() for name in reader.names())


def test_a_read_only_disk_and_a_damaged_file_of_the_run_folder(tiny_run, tmp_path):
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", mebibytes=1, remounted="ro"):
        arguments = [*tiny_run, f"run.folder={tmp_path / 'disk' / 'run'}"]
        assert_refused(arguments, "run cannot be written: ")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text("[{")
    assert_refused(tiny_run, "environment.json is damaged (")
    assert (tmp_path / "run" / "environment.json").read_text() == "[{"


def test_a_full_disk_while_saving_and_going_on_when_there_is_space(tiny_run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, mebibytes=20):  # a checkpoint of this student takes about 11
        arguments = [*tiny_run, f"run.folder={disk / 'run'}"]
        assert_refused(arguments, f"no space left for {disk}/run/checkpoints/step_0000000")
        (kept,) = (disk / "run" / "checkpoints").iterdir()
        assert kept.name == "step_00000002"
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        code, errors = run(arguments)
        assert code == 0, errors
        assert f"resuming from {kept}" in errors
        assert set(losses(disk / "run")) == set(range(1, 9))


def test_a_port_in_use(tiny_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "fd_scale", "launch", "--nproc", "2", "--master-port", str(port), "--", *tiny_run],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pack", "/nowhere", "/tmp/never"], "/nowhere is not a folder"),
        (["export", "/nowhere", "/tmp/never.safetensors"], "no whole checkpoint in /nowhere; give what `run.folder`"),
        (["plan", "/nowhere.yaml"], "no such config: /nowhere.yaml"),
        (["distil", "x"], "invalid choice: 'distil'"),
        (["pack"], "the following arguments are required: SOURCE, OUT"),
    ],
)
def test_a_mistake_on_the_command_line(arguments, line):
    done = subprocess.run([sys.executable, "-m", "fd_scale", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert line in done.stderr
