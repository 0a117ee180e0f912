"""The benchmarks of checkpoints in their small forms, which hold every system to loading what it saved."""

import subprocess
import sys

from support.helpers import REPOSITORY


def run(tool: str, *words: str) -> str:
    command = [sys.executable, "-m", f"tools.{tool}", *words, "--small"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_system_loads_the_bits_that_it_saved():
    shown = run("bench_checkpoint", "times")
    for system in ("fd_scale", "DeepSpeed", "DCP save", "DCP async_save"):
        assert f"{system} each turn" in shown


def test_a_checkpoint_made_by_hand_is_exported():
    assert "peak of export" in run("bench_export")
