"""Verbs of `program.py` for rounds: what they do depends on how often they were started, and they can be stopped."""

import os
import signal
import time
from pathlib import Path

from fd_scale.errors import Retry
from fd_scale.launch.elastic import Work

RANK, WORLD = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")


def work_of(command: list[str]) -> Work | None:
    """`steps FOLDER` has a global batch of 4, which 3 ranks do not share."""
    if command[0] != "steps":
        return None
    folder = Path(command[1])
    return Work(4, 1, folder, lambda: len(list(folder.glob("step_*"))))


def in_turn(folder: str, *endings: str) -> str:
    """How this rank ends the first time, the second time, and so on: the words are those of `end_as`."""
    started = len(list(Path(folder).glob(f"start_*_of_{RANK}")))
    Path(folder, f"start_{started}_of_{RANK}").touch()
    return endings[min(started, len(endings) - 1)]


def steps(folder: str) -> int:
    """Trains, one checkpoint, until it is stopped or there is a file `finish`; leaves its world and process."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    Path(folder, f"world_{WORLD}_rank_{RANK}").write_text(str(os.getpid()))
    while not asked and not Path(folder, "finish").exists():
        time.sleep(0.02)
    Path(folder, f"world_{WORLD}_rank_{RANK}").unlink()
    if not asked:
        return 0
    Path(folder, "step_1").touch()
    if os.environ.get("FD_SCALE_STOPPED_EXIT") == "75":
        raise Retry("stopped by a signal after step 1 of 2, which is saved; start the same command again to resume")
    return 0
