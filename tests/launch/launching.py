"""Starts the launcher as a user does, in a process of its own, and finds every process that came from it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")
ROOT = PROGRAM.parents[2]


class Launcher:
    """Every descendant on this machine, ssh's included, carries the mark FD_SCALE_NOTE in its environment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "FD_SCALE_NOTE": str(folder), "PYTHONPATH": str(ROOT)}
        self.environment["TMPDIR"] = str(folder)  # logs that the launcher keeps go with the test
        for name in ("RANK", "WORLD_SIZE", "FD_SCALE_ERROR_FOLDER", "OMP_NUM_THREADS"):
            self.environment.pop(name, None)

    def start(self, *arguments: str | Path, **options) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), *map(str, arguments)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        return finish(self.start(*arguments))

    def processes(self) -> list[int]:
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_ours(folder)]

    def _is_ours(self, folder: Path) -> bool:
        try:
            return f"FD_SCALE_NOTE={self.folder}\0".encode() in (folder / "environ").read_bytes()
        except OSError:
            return False

    def has(self, *names: str) -> bool:
        return all((self.folder / name).exists() for name in names)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=90)
    return process.returncode, output, errors


def wait_until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)
