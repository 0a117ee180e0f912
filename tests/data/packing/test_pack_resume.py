"""Packing on several processes, killed at any moment: the bytes are those of a command that nobody disturbed."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.helpers import small_disk
from support.parts import sweep

from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.packing.workers import in_workers
from fd_scale.errors import BadInput, Retry


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """60 images that take a while each."""
    folder = tmp_path_factory.mktemp("photographs")
    noise = np.random.default_rng(0)
    for number in range(60):
        coarse = noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        target = folder / f"{number % 3}" / f"{number}.jpg"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((500, 430), Image.Resampling.BICUBIC).save(target, quality=90)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photographs, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    pack(photographs, out, shard_samples=4, short_side=256)
    return files(out)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(source: Path, out: Path, workers: int) -> list[str]:
    options = ["--shard-samples", "4", "--short-side", "256", "--workers", str(workers)]
    return [sys.executable, "-m", "fd_scale", "pack", str(source), str(out), *options]


@pytest.mark.parametrize("workers", sweep([2, 3, 40], [3]))
def test_the_number_of_workers_changes_nothing(workers, photographs, undisturbed, tmp_path):
    pack(photographs, tmp_path / "out", shard_samples=4, short_side=256, workers=workers)
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("trial", sweep(range(6), range(2)))
def test_killed_at_random_moments_it_ends_with_the_same_bytes(trial, photographs, undisturbed, tmp_path):
    """Each start is killed, with -9, at once or when it has finished some more shards; the last one is left alone."""
    chance = random.Random(trial)
    done = tmp_path / ".out.partial" / "done"
    kills = 0
    while kills < 3 and not (tmp_path / "out").exists():
        more = chance.randint(0, 3)
        goal = len(list(done.glob("*.json"))) + more
        process = subprocess.Popen(
            command(photographs, tmp_path / "out", workers=chance.choice([1, 2, 3])), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(done.glob("*.json"))) < goal:
            time.sleep(0.002)
        time.sleep(chance.random() * (0.05 if more else 0.5))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills
    if not (tmp_path / "out").exists():
        subprocess.run(command(photographs, tmp_path / "out", 2), capture_output=True, check=True)
    assert files(tmp_path / "out") == undisturbed
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_shards_are_not_written_again(workers, photographs, undisturbed, tmp_path, capsys):
    interrupt_after(3, photographs, tmp_path / "out")
    shards = tmp_path / ".out.partial" / "shards"
    times = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.tar")}
    finished = {f"{path.stem}.tar" for path in (tmp_path / ".out.partial" / "done").iterdir()}
    assert len(finished) == 3
    pack(photographs, tmp_path / "out", shard_samples=4, short_side=256, workers=workers)
    assert "3 shards are finished" in capsys.readouterr().err
    assert {name for name in times if (tmp_path / "out" / name).stat().st_mtime_ns == times[name]} == finished
    assert files(tmp_path / "out") == undisturbed


def test_what_was_being_written_does_not_come_along(photographs, undisturbed, tmp_path):
    """By its name now, and by that of earlier versions."""
    interrupt_after(3, photographs, tmp_path / "out")
    for name in (".skipped.txt.partial", "skipped.txt.unfinished", "shard-000001.idx.unfinished"):
        (tmp_path / ".out.partial" / "shards" / name).write_text("half of it")
    pack(photographs, tmp_path / "out", shard_samples=4, short_side=256)
    assert files(tmp_path / "out") == undisturbed


def test_finished_shards_that_were_damaged_since_are_written_again(photographs, undisturbed, tmp_path):
    interrupt_after(3, photographs, tmp_path / "out")
    partial = tmp_path / ".out.partial"
    with open(partial / "shards" / "shard-000000.tar", "r+b") as tar:
        tar.seek(2000)
        tar.write(b"damage")
    (partial / "shards" / "shard-000001.idx").write_text("v1.2 0\n")
    (partial / "done" / "shard-000002.json").write_text('{"shard"')
    pack(photographs, tmp_path / "out", shard_samples=4, short_side=256)
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("change", ["seed", "side", "image", "more"])
def test_another_source_or_other_options_start_anew(change, photographs, tmp_path, capsys):
    source = shutil.copytree(photographs, tmp_path / "source")
    interrupt_after(3, source, tmp_path / "out")
    capsys.readouterr()
    options = {"shard_samples": 4, "short_side": 256, "seed": 0}
    if change == "seed":
        options["seed"] = 1
    elif change == "side":
        options["short_side"] = 128
    elif change == "image":  # the same name, another picture
        shutil.copy(source / "0" / "0.jpg", source / "0" / "3.jpg")
    else:
        shutil.copy(source / "0" / "0.jpg", source / "0" / "0b.jpg")
    pack(source, tmp_path / "out", **options)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith(".out.partial is of another source or other options; starting anew")
    pack(source, tmp_path / "fresh", **options)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.parametrize("left", ["done", "plan.json", "lock", None])
def test_killed_between_putting_in_place_and_tidying_up(left, photographs, undisturbed, tmp_path):
    interrupt_after(3, photographs, tmp_path / "out")
    shutil.copytree(tmp_path / ".out.partial", tmp_path / "kept")
    pack(photographs, tmp_path / "out", shard_samples=4, short_side=256)
    (tmp_path / "kept").rename(tmp_path / ".out.partial")
    for path in (tmp_path / ".out.partial").iterdir():
        if path.is_dir() and path.name != left:
            shutil.rmtree(path)
        elif path.name != left:
            path.unlink()
    with pytest.raises(BadInput, match="exists already and is not empty"):
        pack(photographs, tmp_path / "out", shard_samples=4, seed=1)
    (tmp_path / ".out.partial").mkdir(exist_ok=True)
    manifest = pack(photographs, tmp_path / "out", shard_samples=4, short_side=256)
    assert manifest.samples == 60
    assert files(tmp_path / "out") == undisturbed
    assert os.listdir(tmp_path) == ["out"]


def test_going_on_from_a_compressed_tar_uncompresses_it_once(photographs, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "photographs"), "gztar", photographs))
    interrupt_after(3, archive, tmp_path / "out")
    (spooled,) = (tmp_path / ".out.partial" / "spool").iterdir()
    before = spooled.stat().st_mtime_ns
    interrupt_after(2, archive, tmp_path / "out")
    assert spooled.stat().st_mtime_ns == before
    pack(archive, tmp_path / "out", shard_samples=4, short_side=256)
    pack(archive, tmp_path / "fresh", shard_samples=4, short_side=256)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_bad_images_found_late_keep_what_is_finished(photographs, tmp_path):
    source = shutil.copytree(photographs, tmp_path / "source")
    manifest = pack(source, tmp_path / "before", shard_samples=4)
    (source / "0" / "0.jpg").write_bytes((source / "0" / "0.jpg").read_bytes()[:-2000])
    with pytest.raises(BadInput, match=r"0\.jpg does not decode"):
        pack(source, tmp_path / "out", shard_samples=4)
    if (tmp_path / ".out.partial").exists():  # unless it stood in the very first shard
        assert list((tmp_path / ".out.partial" / "done").iterdir())
    left = pack(source, tmp_path / "out", shard_samples=4, skip_bad=True)
    assert (left.samples, left.skipped) == (59, 1)
    same = {shard.sha256 for shard in manifest.shards} & {shard.sha256 for shard in left.shards}
    assert len(same) == len(manifest.shards) - 1  # the other shards do not know of it
    assert verify(tmp_path / "out") == []


def test_a_command_waits_for_the_workers_of_a_killed_one(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("fd_scale.data.packing.partial.LOCK_SECONDS", 0.2)
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    with open(partial / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Retry, match="another command's workers are still writing to"):
            pack(photographs, tmp_path / "out")
        assert partial.exists()
    pack(photographs, tmp_path / "out")


def test_a_killed_worker_ends_the_job_with_a_retry_and_the_next_command_goes_on(photographs, undisturbed, tmp_path):
    process = subprocess.Popen(command(photographs, tmp_path / "out", 2), stderr=subprocess.PIPE, text=True)
    done = tmp_path / ".out.partial" / "done"
    while len(list(done.glob("*.json"))) < 2:
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert len([line for line in said.splitlines() if line.startswith("fd-scale: a worker process was killed")]) == 1
    assert "Traceback" not in said
    subprocess.run(command(photographs, tmp_path / "out", 2), capture_output=True, check=True)
    assert files(tmp_path / "out") == undisturbed


def test_no_worker_outlives_its_killed_parent(photographs, tmp_path):
    process = subprocess.Popen(command(photographs, tmp_path / "out", 3), stderr=subprocess.DEVNULL)
    done = tmp_path / ".out.partial" / "done"
    while len(list(done.glob("*.json"))) < 1:
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    give_up = time.monotonic() + 30
    while any(is_running(child) for child in children):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_full_disk_is_said_and_gone_on_from(photographs, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, mebibytes=1):
        done = subprocess.run(command(photographs, disk / "out", 2), capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert f"no space left for {disk}/.out.partial; free some and start the same command again" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        subprocess.run(command(photographs, disk / "out", 2), capture_output=True, check=True)
        assert files(disk / "out") == undisturbed


def test_an_exception_in_a_worker_keeps_its_type_and_says_where():
    def fail(task: int):
        yield None
        raise ZeroDivisionError(f"task {task}")

    with pytest.raises(ZeroDivisionError, match="task 3") as raised:
        list(in_workers(fail, [3, 3], workers=2))
    assert "in fail" in raised.value.__notes__[0]


def test_a_worker_that_is_killed_is_worth_a_retry_and_one_that_crashes_is_a_bug():
    def die(by: signal.Signals):
        yield None
        os.kill(os.getpid(), by)

    with pytest.raises(Retry, match="killed by signal 9"):
        list(in_workers(die, [signal.SIGKILL] * 2, workers=2))
    with pytest.raises(RuntimeError, match="crashed with status -31"):
        list(in_workers(die, [signal.SIGSYS] * 2, workers=2))


class Interrupted(Exception):
    pass


def interrupt_after(shards: int, source: Path, out: Path) -> None:
    """End a command when it has finished that many more shards."""

    def progress(items, total, label):
        for number, item in enumerate(items):
            if number >= 4 * (shards + already) + 2:
                raise Interrupted
            yield item

    done = out.with_name(f".{out.name}.partial") / "done"
    already = len(list(done.glob("*.json"))) if done.exists() else 0
    with pytest.raises(Interrupted):
        pack(source, out, shard_samples=4, short_side=256, progress=progress)


def is_running(process: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
