"""What a run may begin with, where it keeps its checkpoints, and what it refuses to go on from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tasks.running import FD_SCALE, SUMMATION, in_folder, kill_after, losses, run, start

from fd_scale.data.packing.pack import pack
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.storage import checkpoints_of, open_storage


def refused(arguments: list[str], line: str) -> None:
    code, errors = run(arguments, nproc=1)
    assert code == 2, errors
    (said,) = [entry for entry in errors.splitlines() if entry.startswith("fd-scale: ")]
    assert line in said


def export(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([*FD_SCALE, "export", *map(str, words)], capture_output=True, text=True)


def test_a_fork_goes_on_as_the_run_itself_did(finished, tmp_path):
    whole, arguments = finished
    code, errors = run([*in_folder(arguments, tmp_path / "fork"), f"start.fork_from={whole}", "start.step=6"])
    assert code == 0, errors
    assert f"forked from {whole}/checkpoints/step_00000006" in errors
    before, after = losses(whole), losses(tmp_path / "fork")
    assert after == {step: before[step] for step in (7, 8)}


def test_a_fork_may_differ_and_says_in_what_and_resumes_by_itself(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "fork"
    arguments = [*in_folder(arguments, folder), f"start.fork_from={whole}", "start.step=6", "schedule.steps=12"]
    code, errors = run([*arguments, "schedule.base_lr=1e-3"], nproc=1)
    assert code == 0, errors
    assert "schedule.base_lr: 0.016 there, 0.001 here" in errors
    assert set(losses(folder)) == set(range(7, 13))
    code, errors = run([*arguments, "schedule.base_lr=1e-3"], nproc=1)
    assert code == 0, errors
    assert f"resuming from {folder}/checkpoints/step_00000012" in errors


def test_starting_from_weights_is_a_new_run(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "again"
    code, errors = run([*in_folder(arguments, folder), f"start.init_from={whole}", "run.keep.last=9"], nproc=1)
    assert code == 0, errors
    assert "the optimizer starts anew" in errors
    assert set(losses(folder)) == set(range(1, 9))
    assert losses(folder)[1] < losses(whole)[1]
    reader = CheckpointReader(checkpoints_of(folder), 2)
    assert reader.scalars["head.weight"]["step"] == ["float32", 2.0]


def test_a_start_that_cannot_be_is_refused_in_one_line(finished, tmp_path):
    whole, arguments = finished
    arguments = in_folder(arguments, tmp_path / "run")
    both = [f"start.fork_from={whole}", f"start.init_from={whole}"]
    refused([*arguments, *both], "start.fork_from and start.init_from contradict")
    refused([*arguments, f"start.fork_from={whole}", "start.step=5"], "no checkpoint of step 5; there are: 6, 8")
    refused([*arguments, "start.init_from=/nowhere"], "start.init_from=/nowhere holds no checkpoints")
    refused([*arguments, "run.checkpoints=nonsense://x"], "nothing here serves nonsense://")


def test_the_same_data_may_have_moved_and_other_data_are_refused(finished, shards, image_folder, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints/step_00000008")
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(shards, moved)
    pack(image_folder, other, shard_samples=20, seed=1)
    arguments = in_folder(arguments, folder)
    refused([*arguments, f"data.train={other}"], "step_00000006 is of another run (data: [(")
    code, errors = run([*arguments, f"data.train={moved}"])
    assert code == 0, errors
    assert losses(folder) == losses(whole)


def test_a_moving_average_goes_on_across_kills_and_worlds_and_is_exported(finished, tmp_path):
    _, arguments = finished
    arguments = [*arguments, "train.ema_decay=0.8", "run.save_every=1"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    code, errors = run(in_folder(arguments, whole))
    assert code == 0, errors
    process = start(in_folder(arguments, folder))
    kill_after(3, folder, process)
    code, errors = run(in_folder(arguments, folder), nproc=1)
    assert code == 0, errors
    assert "resuming from" in errors

    for name in ("whole", "run"):
        for flags in ([], ["--ema"]):
            done = export(tmp_path / name, tmp_path / f"{name}{''.join(flags)}.safetensors", *flags)
            assert done.returncode == 0, done.stderr
    files = {path.stem: load_file(path) for path in tmp_path.glob("*.safetensors")}
    for kind in ("", "--ema"):
        for name, value in files[f"whole{kind}"].items():
            # Adam divides by the root of squared gradients, so summation order tells more in weights than in losses
            assert torch.allclose(files[f"run{kind}"][name], value, rtol=1e-2, atol=1e-4), (kind, name)
    reader = CheckpointReader(checkpoints_of(whole), 8)
    for name, value in files["whole--ema"].items():
        assert torch.equal(value.flatten(), reader.read(f"student.{name}", "ema"))
        assert torch.equal(files["whole"][name].flatten(), reader.read(f"student.{name}"))
    assert not all(torch.equal(value, files["whole"][name]) for name, value in files["whole--ema"].items())


def test_the_best_and_every_nth_checkpoint_stay(finished, tmp_path):
    _, arguments = finished
    folder = tmp_path / "run"
    keep = ["run.save_every=1", "run.keep.last=1", "run.keep.every=3", "run.keep.best=loss"]
    code, errors = run([*in_folder(arguments, folder), *keep])
    assert code == 0, errors
    values = losses(folder)
    best = min(values, key=values.__getitem__)
    assert set(open_storage(folder / "checkpoints").steps()) == {3, 6, 8, best}


def test_checkpoints_in_a_bucket_resume_elsewhere_and_are_exported(finished, bucket, tmp_path):
    whole, arguments = finished
    folder, url = tmp_path / "run", f"{bucket}/{tmp_path.name}"
    arguments = [*in_folder(arguments, folder), f"run.checkpoints={url}"]
    process = start(arguments)
    kill_after(5, folder, process)
    assert process.returncode == 75
    shutil.rmtree(folder)  # another cluster has the bucket alone
    code, errors = run(arguments, nproc=1)
    assert code == 0, errors
    assert f"resuming from {url}/step_0000000" in errors
    here = losses(folder)
    assert here == pytest.approx({step: losses(whole)[step] for step in here}, rel=SUMMATION)
    assert not (folder / "checkpoints").exists()
    for checkpoints in (folder, url):
        done = export(checkpoints, tmp_path / "student.safetensors", "--dtype", "bf16")
        assert done.returncode == 0, done.stderr
    assert {value.dtype for value in load_file(tmp_path / "student.safetensors").values()} == {torch.bfloat16}


def test_export_refuses_what_is_not_there_in_one_line(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "student.safetensors"
    for words, line in [
        ((whole, out, "--ema"), "holds no moving average; leave out --ema"),
        ((whole, out, "--step", 5), "no whole checkpoint of step 5"),
        ((tmp_path, out), f"no whole checkpoint in {tmp_path}"),
    ]:
        done = export(*words)
        assert done.returncode == 2
        (said,) = done.stderr.splitlines()
        assert line in said
    assert not out.exists()


def test_an_export_says_where_it_comes_from(finished, tmp_path):
    from fd_scale.export import load_student

    whole, arguments = finished
    done = export(whole, tmp_path / "student.safetensors")
    assert done.returncode == 0, done.stderr
    _, origin = load_student(tmp_path / "student.safetensors")
    assert origin["config"]["train"]["global_batch"] == 8
    assert origin["position"] == {"step": 8, "samples": 64, "seed": 0}
    (data,) = origin["data"].values()
    manifest = next(word.removeprefix("data.train=") for word in arguments if word.startswith("data.train="))
    assert data["sha256"] == read_fingerprint(Path(manifest))
    assert origin["ema"] is False


def read_fingerprint(folder: Path) -> str:
    from fd_scale.data.shards import read_manifest

    return read_manifest(folder).fingerprint()


@pytest.mark.real_start
def test_importing_export_needs_no_deepspeed():
    """A real start, because what it imports is the question."""
    code = "import sys, fd_scale.export; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
