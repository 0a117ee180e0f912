"""Starting real runs through `fd-scale launch` and looking at what they left."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.helpers import tiny_arguments
from support.session import once

SUMMATION = 2e-6
"""Relative: fp32 losses of eight steps, summed in another order. Ten times the largest difference that was measured."""

FD_SCALE = (sys.executable, "-m", "fd_scale")


def start(arguments: list[str], nproc: int = 2) -> subprocess.Popen:
    command = [*FD_SCALE, "launch", "--nproc", str(nproc), "--", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(arguments: list[str], nproc: int = 2) -> tuple[int, str]:
    """Exit code and standard error."""
    process = start(arguments, nproc)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def distilled(shards: Path, teacher_file: Path) -> tuple[Path, list[str]]:
    """An undisturbed run, which all tests share, and its arguments."""

    def make(folder: Path) -> None:
        code, errors = run(tiny_arguments(shards, teacher_file, folder / "run"))
        assert code == 0, errors

    folder = once("distilled", make) / "run"
    return folder, tiny_arguments(shards, teacher_file, folder)


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in entries] == sorted({entry["step"] for entry in entries})
    return {entry["step"]: entry["loss"] for entry in entries}


def up_to(last: int, losses: dict[int, float]) -> dict[int, float]:
    """Those of the steps that a run with `run.stop_at=last` makes."""
    return {step: loss for step, loss in losses.items() if step <= last}


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def ranks_of(folder: Path) -> list[int]:
    """Process ids of the ranks that work on a run folder, and of their workers."""
    return [pid for pid, words in _processes() if f"run.folder={folder}" in words and "launch" not in words]


def process_of(rank: int, folder: Path) -> int:
    """Process id of one rank that works on a run folder; of its own, not of the workers that it started later."""
    ranks = {pid: words for pid, words in _processes() if pid in ranks_of(folder)}
    return min(pid for pid, words in ranks.items() if f"RANK={rank}" in words)  # support.warm puts it in front


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield int(entry.name), re.split(r"[\0 ]", (entry / "cmdline").read_bytes().decode())


def kill_ranks(folder: Path) -> None:
    for pid in ranks_of(folder):
        os.kill(pid, signal.SIGKILL)


def kill_after(step: int, folder: Path, process: subprocess.Popen) -> str:
    """Kill all ranks as soon as that step is logged; what the launcher says to that."""
    metrics = folder / "metrics.jsonl"
    wait_for(metrics)
    while len(metrics.read_text().splitlines()) < step and process.poll() is None:
        time.sleep(0.001)
    kill_ranks(folder)
    return process.communicate(timeout=60)[1]


def copied(whole: Path, folder: Path) -> Path:
    """A finished run, to be changed; it knows where it lies."""
    shutil.copytree(whole, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(whole), str(folder)))
    return folder


def in_folder(arguments: list[str], folder: Path) -> list[str]:
    return [f"run.folder={folder}" if word.startswith("run.folder=") else word for word in arguments]
