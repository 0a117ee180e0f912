"""Harm done to a run: kills at a moment of a kind, damage to its newest checkpoint, a disk that fills up."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from fd_scale.parallel.checkpoint.storage import MANIFEST
from tools.chaos.events import DELETE, KILLED_ALL, KILLED_LAUNCHER, KILLED_ONE, TEAR, UNLIST
from tools.chaos.processes import PATIENCE, ranks_of
from tools.chaos.runs import Chaos, half_written, require, written_since

MIB = 2**20
DISK = 640 * MIB


def wait_for_moment(chaos: Chaos, process: subprocess.Popen, began: float, moment: str) -> None:
    """Return at a random time of that kind.

    In training and saving that is after one or two new checkpoints.
    """
    if moment == "starting":
        time.sleep(chaos.random.uniform(0.5, 8))
    if moment in ("starting", ""):
        return
    wanted = chaos.random.randint(1, 2)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        new = written_since(chaos.storage.folder.glob("step_*"), began)
        if new >= wanted and (moment == "training" or half_written(chaos, began)):
            break
        time.sleep(0.0005)
    time.sleep(chaos.random.uniform(0, 0.3 if moment == "training" else 0.03))


def kill(chaos: Chaos, process: subprocess.Popen, what: str) -> None:
    victims: list[int] = []
    while what in (KILLED_ONE, KILLED_ALL) and not victims and process.poll() is None:
        victims = sorted(ranks_of(chaos.folder))
    if what == KILLED_ONE and victims:
        victims = [chaos.random.choice(victims)]
    if what == KILLED_LAUNCHER and process.poll() is None:
        victims = [process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def damage_newest(chaos: Chaos, what: str) -> None:
    newest = chaos.storage.folder / f"step_{chaos.whole():08d}"
    path = chaos.random.choice(sorted(newest.iterdir()))
    if what == UNLIST:
        path = newest / MANIFEST
    if what in (DELETE, UNLIST):
        path.unlink()
    elif what == TEAR:
        os.truncate(path, chaos.random.randrange(path.stat().st_size))
    else:
        with open(path, "r+b") as file:
            bit = chaos.random.randrange(8 * path.stat().st_size)
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ (1 << bit % 8)]))
    chaos.counts[what] += 1
    left = chaos.whole()
    chaos.say(f"{what}: {newest.name}/{path.name}; newest whole step {left}")
    require(f"step_{left:08d}" < newest.name, f"{path} is damaged and {newest.name} still counts as whole")


def fill_disk(filler: Path, process: subprocess.Popen, left: int) -> None:
    """Take all of the disk but `left` bytes until the process ends: rotation frees space again and again."""
    with open(filler, "wb") as file:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # the run was faster
                while (excess := shutil.disk_usage(filler.parent).free - left) > 0:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, min(excess, MIB))
            time.sleep(0.01)
    filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of its own on `folder`, where this machine lets us."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
