"""A start of a run as processes: launched, waited for, and its ranks found."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tools.chaos.runs import Broken

PATIENCE = 600.0
"""Seconds for whatever is waited for."""


def start(arguments: list[str], folder: Path, world: int, last: int) -> subprocess.Popen:
    launch = [sys.executable, "-m", "fd_scale", "launch", "--nproc", str(world), "--"]
    command = [*launch, *arguments, f"run.folder={folder}", f"run.stop_at={last}", f"train.micro_batch={12 // world}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for the end and return exit code and standard error.

    It also ends when ranks that outlive a killed launcher close the latter.
    """
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Broken(f"a start did not end within {PATIENCE:.0f} s") from None
    return process.returncode, errors


def ranks_of(folder: Path) -> list[int]:
    """List the process ids of the ranks that work on a run folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if f"run.folder={folder}" in words and "launch" not in words and process.info["status"] != "zombie":
            found.append(process.pid)
    return found
