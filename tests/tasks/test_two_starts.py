"""Two starts of one run, two exports to one path, and an export out of a run that goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tasks.running import (
    copied,
    in_folder,
    losses,
    process_of,
    run,
    start,
    up_to,
    wait_for,
)

from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.errors import Retry
from fd_scale.export import export
from fd_scale.lease import Lease, beside, holding
from fd_scale.lease.holder import Holder, this_process
from fd_scale.parallel.checkpoint.reader import CheckpointReader, Removed
from fd_scale.parallel.checkpoint.storage import open_storage
from fd_scale.teachers.files import write


def put_in_place(lease: Path, holder: Holder) -> None:
    """As a start that takes over does it: by a rename."""
    aside = lease.with_name("aside")
    aside.write_bytes(holder.to_bytes())
    os.replace(aside, lease)


def test_a_second_start_disturbs_nothing_and_one_that_has_lost_its_run_ends(finished, tmp_path):
    """Rank 1 is stopped while the second start looks: rank 0 waits for it, alive, and costs nothing."""
    whole, arguments = finished
    folder = tmp_path / "run"
    arguments = [*in_folder(arguments, folder), "run.save_every=1"]
    lease = folder / "lease.json"
    first = start(arguments)
    wait_for(folder / "checkpoints" / "step_00000001")
    stopped = process_of(1, folder)
    os.kill(stopped, signal.SIGSTOP)

    code, errors = run(arguments, nproc=1)
    assert code == 75
    holder = Holder.from_bytes(lease.read_bytes())
    assert holder.pid == process_of(0, folder)
    assert errors.splitlines()[-1].startswith(
        f"fd-scale: run.folder {folder} is in use by process {holder.pid} on {os.uname().nodename} (since "
    )

    successor = replace(this_process(), started=1)  # which has ended since
    put_in_place(lease, successor)
    os.kill(stopped, signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 75, errors
    assert f"run.folder {folder} was taken over by process {successor.pid}" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert Holder.from_bytes(lease.read_bytes()) == successor
    last = max(losses(folder))
    assert last < 8
    assert losses(folder) == up_to(last, losses(whole))
    assert max(open_storage(folder / "checkpoints").steps()) <= last


def write_teacher(out: Path, **_: object) -> None:
    write(out, {"weight": torch.zeros(2)}, {"timm_model": "any"})


@pytest.mark.parametrize("verb", ["export", "fetch-teacher", "pack", "index"])
def test_two_at_once_to_one_target(verb, finished, image_folder, shards, tmp_path):
    out = tmp_path / ("out" if verb in ("pack", "index") else "out.safetensors")
    target = out
    if verb == "index":
        shutil.copytree(shards, out)
        (out / "manifest.json").unlink()
        target = out / ".index"
    writes = {
        "export": lambda: export(finished[0], out, dtype="fp32"),
        "fetch-teacher": lambda: write_teacher(out),
        "pack": lambda: pack(image_folder, out),
        "index": lambda: index(out),
    }[verb]
    with (
        holding(Lease(beside(target), "held by the test", renew_seconds=0.1)),
        pytest.raises(Retry, match=f"is in use by process {os.getpid()}"),
    ):
        writes()
    assert not list(tmp_path.rglob(".*"))
    writes()
    assert not list(tmp_path.rglob(".*"))


def test_parallel_exports_to_one_path_end_with_0_or_75_and_leave_one_whole_file(finished, tmp_path):
    command = [sys.executable, "-m", "fd_scale", "export", str(finished[0]), str(tmp_path / "student.safetensors")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, 75), errors
        assert "Traceback" not in errors
    assert 0 in [process.returncode for process in processes]
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]
    assert load_file(tmp_path / "student.safetensors")


def test_the_same_pack_twice_at_once_packs_once(image_folder, tmp_path):
    packed = []
    threads = [threading.Thread(target=lambda: packed.append(pack(image_folder, tmp_path / "out"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(packed) == 2
    assert packed[0] == packed[1]


class Rotating:
    """Does to a run what its next save would do, while it is exported."""

    def __init__(self, run: Path, saves: int):
        self.storage, self.saves = open_storage(run / "checkpoints"), saves

    def __call__(self, names, total, label):
        for name in names:
            yield name
            if self.saves:
                self.saves -= 1
                newest = self.storage.steps()[-1]
                folder = Path(self.storage.where(newest))
                shutil.copytree(folder, folder.with_name(f"step_{newest + 1:08d}"))
                self.storage.remove(newest)


def test_an_export_out_of_a_run_that_goes_on_takes_the_newest_there_is(finished, tmp_path):
    folder = copied(finished[0], tmp_path / "run")
    export(folder, tmp_path / "student.safetensors", dtype="fp32", progress=Rotating(folder, saves=2))
    assert open_storage(folder / "checkpoints").steps()[-1] == 10
    export(finished[0], tmp_path / "same.safetensors", dtype="fp32")
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("student", "same"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("step", [8, None])
def test_an_export_that_the_run_outpaces_ends_with_75_in_one_line(step, finished, tmp_path):
    folder = copied(finished[0], tmp_path / "run")
    with pytest.raises(Retry, match=r"step_\d+ was removed while it was read, by the run that goes on"):
        export(folder, tmp_path / "student.safetensors", step=step, dtype="fp32", progress=Rotating(folder, saves=1000))
    assert not list(tmp_path.glob("*.safetensors*"))
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_missing_is_damage_and_a_step_that_is_missing_was_removed(finished, tmp_path):
    storage = open_storage(copied(finished[0], tmp_path / "run") / "checkpoints")
    newest = storage.steps()[-1]
    reader = CheckpointReader(storage, newest)
    name = reader.names()[0]
    Path(storage.where(newest, "rank_00001.safetensors")).unlink()
    with pytest.raises(FileNotFoundError):
        CheckpointReader(storage, newest)
    storage.remove(newest)
    for read in (lambda: CheckpointReader(storage, newest), lambda: reader.read(name)):
        with pytest.raises(Removed, match=re.escape(storage.where(newest))):
            read()
