"""The main job on two real ZeRO-3 processes: what it leaves, how it stops, how it goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.parts import sweep
from tasks.running import (
    SUMMATION,
    copied,
    in_folder,
    kill_after,
    losses,
    process_of,
    ranks_of,
    run,
    start,
    up_to,
    wait_for,
)

from fd_scale.export import load_student
from fd_scale.launch.environment import free_port


def test_a_run_folder_explains_itself(finished):
    folder, _ = finished
    assert yaml.safe_load((folder / "config.yaml").read_text())["loss"]["beta"] == 2.0
    (start_record,) = json.loads((folder / "environment.json").read_text())
    assert start_record["world"] == 2
    assert start_record["packages"]["deepspeed"] == "0.19.8"
    assert set(losses(folder)) == set(range(1, 9))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_00000006", "step_00000008"]
    assert sorted(p.name for p in (folder / "logs").iterdir()) == ["rank_00000.log", "rank_00001.log"]
    assert list((folder / "tensorboard").iterdir())


def test_the_loss_falls(finished):
    values = losses(finished[0])
    assert values[8] < values[1]


def test_a_finished_run_has_nothing_to_do(finished, tmp_path):
    whole, arguments = finished
    folder = copied(whole, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    code, errors = run(in_folder(arguments, folder))
    assert code == 0
    assert "nothing to do" in errors
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("last", [2, 5])
def test_kill_9_loses_at_most_the_steps_since_the_checkpoint_and_resume_equals_uninterrupted(finished, tmp_path, last):
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = in_folder(arguments, folder)
    process = start(arguments)
    errors = kill_after(last, folder, process)
    assert process.returncode == 75, errors
    assert "killed by signal 9" in errors
    assert not ranks_of(folder)

    code, errors = run(arguments)
    assert code == 0, errors
    assert re.search(rf"run.folder {folder}: taking over from process \d+ on .*, which is dead", errors)
    assert "waiting" not in errors
    resumed = losses(folder)
    assert set(resumed) == set(range(1, 9))
    assert resumed == losses(whole)
    assert len(json.loads((folder / "environment.json").read_text())) == 2


def test_sigterm_saves_exits_with_0_and_the_next_start_goes_on(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = [*in_folder(arguments, folder), "run.save_every=1000", "data.workers=1"]
    process = start(arguments)
    wait_for(folder / "metrics.jsonl")
    while not (folder / "metrics.jsonl").read_text():
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (saved,) = (folder / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert 1 <= step < 8
    assert max(losses(folder)) == step

    code, errors = run(arguments)
    assert code == 0, errors
    assert f"resuming from {saved}" in errors
    assert losses(folder) == losses(whole)


def test_a_rank_that_hangs_ends_the_run_with_75_and_stacks_and_resume_equals_uninterrupted(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = [*in_folder(arguments, folder), "data.workers=1", "run.watchdog_minutes=0.3"]
    process = start(arguments)
    wait_for(folder / "checkpoints" / "step_00000002")
    os.kill(process_of(1, folder), signal.SIGSTOP)  # and with it the watchdog of rank 1
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    assert not ranks_of(folder)
    (line,) = [entry for entry in errors.splitlines() if entry.startswith("fd-scale: ")]
    stacks = folder / "logs" / "rank_00000.stacks"
    said = re.match(
        r"fd-scale: rank 0 .* no sign of life for 0.3 minutes at step (\d+); the stacks .* are in (\S+);", line
    )
    assert said, line
    assert int(said[1]) - max(losses(folder)) in (0, 1)  # 0 while saving
    assert said[2] == str(stacks)
    assert line.endswith(
        "; start the same command again to resume, with a higher run.watchdog_minutes if it was only slow"
    )
    (loop,) = [thread for thread in stacks.read_text().split("\n\n") if "fd_scale/train/loop.py" in thread]
    innermost = "\n".join(loop.splitlines()[1:8])
    assert re.search(r"in (wait|barrier|broadcast\w*|\w*gather\w*|\w*reduce\w*)$", innermost, re.MULTILINE), loop
    assert not (folder / "logs" / "rank_00001.stacks").exists()

    code, errors = run(arguments)
    assert code == 0, errors
    assert "resuming from" in errors
    assert losses(folder) == losses(whole)


def test_stop_at_saves_its_step_ends_with_0_and_the_next_start_goes_on(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = [*in_folder(arguments, folder), "run.save_every=1000"]
    code, errors = run([*arguments, "run.stop_at=3"])
    assert code == 0, errors
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000003"]
    assert losses(folder) == up_to(3, losses(whole))

    code, errors = run([*arguments, "run.stop_at=1000"])
    assert code == 0, errors
    assert losses(folder) == losses(whole)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(finished, tmp_path):
    whole, arguments = finished
    folder = copied(whole, tmp_path / "run")
    damaged = folder / "checkpoints/step_00000008/rank_00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, errors = run(in_folder(arguments, folder))
    assert code == 0, errors
    assert "rank_00001.safetensors does not have the sha256" in errors
    assert "resuming from" in errors
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(("nproc", "micro_batch"), [(1, 8), (1, 1), (2, 2)])
def test_losses_do_not_depend_on_who_computes_which_sample(finished, tmp_path, nproc, micro_batch):
    """Crop, flip and drop path are a sample's own; only the order of summation differs."""
    whole, arguments = finished  # two processes, micro-batches of four
    folder = tmp_path / "run"
    changed = [f"train.micro_batch={micro_batch}", "run.stop_at=3"]
    code, errors = run([*in_folder(arguments, folder), *changed], nproc)
    assert code == 0, errors
    assert losses(folder) == pytest.approx(up_to(3, losses(whole)), rel=SUMMATION)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_processes(finished, tmp_path, before, after):
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = in_folder(arguments, folder)
    process = start(arguments, before)
    kill_after(3, folder, process)
    assert process.returncode == 75

    code, errors = run(arguments, after)
    assert code == 0, errors
    assert "resuming from" in errors
    worlds = [entry["world"] for entry in json.loads((folder / "environment.json").read_text())]
    assert worlds == [before, after]
    assert losses(folder) == pytest.approx(losses(whole), rel=SUMMATION)


def test_drop_path_is_heard(finished, tmp_path):
    """Or the tests above would say nothing of it: without it the losses are others from the first step."""
    whole, arguments = finished
    arguments = in_folder(arguments, tmp_path / "run")
    code, errors = run([*arguments, "student.drop_path=0", "train.micro_batch=8", "schedule.steps=3"], nproc=1)
    assert code == 0, errors
    plain = losses(tmp_path / "run")
    assert abs(plain[1] - losses(whole)[1]) > 100 * SUMMATION * plain[1]


def test_a_replicated_teacher_gives_what_a_sharded_one_does(finished, tmp_path):
    whole, arguments = finished  # sharded
    code, errors = run([*in_folder(arguments, tmp_path / "run"), "teacher.sharded=false", "run.stop_at=3"])
    assert code == 0, errors
    assert losses(tmp_path / "run") == up_to(3, losses(whole))


def test_a_vit_student_learns_every_token_of_a_vit(finished, tmp_path):
    _, arguments = finished
    folder = tmp_path / "run"
    vit = ["student.name=vit_tiny", "student.residual_norm_init=null", "schedule.steps=4", "target.prefix=keep"]
    code, errors = run([*in_folder(arguments, folder), *vit])
    assert code == 0, errors
    values = losses(folder)
    assert values[4] < values[1]


@pytest.mark.parametrize("stage", [1, 2])
def test_bf16_and_other_stages_follow_fp32(finished, tmp_path, stage):
    whole, arguments = finished
    folder = tmp_path / "run"
    spread = ["parallel.precision=bf16", f"parallel.deepspeed=deepspeed_configs/zero{stage}.json", "run.stop_at=5"]
    code, errors = run([*in_folder(arguments, folder), *spread])
    assert code == 0, errors
    assert losses(folder) == pytest.approx(up_to(5, losses(whole)), rel=0.03)


LAUNCHERS = {
    "launch": [sys.executable, "-m", "fd_scale", "launch", "--nproc", "2", "--"],
    "torchrun": [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "PORT",
        "-m",
        "fd_scale",
    ],
    "deepspeed": [
        "deepspeed",
        "--num_accelerators",
        "2",
        "--master_port",
        "PORT",
        "--no_local_rank",
        "--module",
        "fd_scale",
    ],
}


@pytest.mark.real_start
@pytest.mark.parametrize("launcher", sweep(LAUNCHERS, ["launch", "torchrun"]))
def test_started_for_real_it_computes_the_same(finished, tmp_path, launcher):
    """Real starts: how these launchers start a rank is the question, and whether warm ones compute the same."""
    whole, arguments = finished
    folder = tmp_path / "run"
    scripts = Path(sys.executable).parent
    given = {"deepspeed": str(scripts / "deepspeed"), "PORT": str(free_port())}  # both would take 29500
    command = [given.get(word, word) for word in LAUNCHERS[launcher]]
    environment = {"PATH": f"{scripts}:/usr/bin:/bin", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HOME": "/tmp"}
    done = subprocess.run(
        [*command, *in_folder(arguments, folder), "run.stop_at=2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert losses(folder) == up_to(2, losses(whole))


def test_the_exported_student_is_the_runs_and_computes(finished, tmp_path):
    folder, _ = finished
    done = subprocess.run(
        [sys.executable, "-m", "fd_scale", "export", folder, tmp_path / "student.safetensors"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    student, origin = load_student(tmp_path / "student.safetensors")
    assert origin["step"] == 8
    assert origin["student"]["position_bias"] == "shared"
    assert origin["teacher"]["licence"] == "none"
    assert origin["pixels"]["mean"] == [0.485, 0.456, 0.406]
    tokens = student(torch.zeros(1, 3, 32, 32))
    assert tokens.shape == (1, 4, student.width)
    assert tokens.isfinite().all()


def test_a_run_can_start_from_a_students_weights(finished, tmp_path):
    folder, arguments = finished
    file = tmp_path / "student.safetensors"
    subprocess.run([sys.executable, "-m", "fd_scale", "export", folder, file], check=True, capture_output=True)
    again = tmp_path / "run"
    code, errors = run([*in_folder(arguments, again), f"student.weights={file}", "schedule.steps=3"])
    assert code == 0, errors
    assert losses(again)[1] < losses(folder)[1]
