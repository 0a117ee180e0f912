"""Real processes that hang, pause or work beside a watchdog.

A limit of 1.5 seconds is 20 wakings of the watchdog's thread; only a process that is given the processor for these and
for nothing else in between would be taken for hanging.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.helpers import REPOSITORY

from fd_scale.errors import BadInput
from fd_scale.stops.watchdog import Watchdog

PROGRAM = """
import sys, time
from pathlib import Path
from fd_scale.stops.watchdog import Watchdog

def hang_here():
    time.sleep(300)

def work(steps):
    for step in range(steps):
        watchdog.alive(step)
        time.sleep(0.02)
        if step == 10:
            print("works", flush=True)

with Watchdog({minutes}, Path(sys.argv[1])) as watchdog:
    watchdog.alive(7)
    {body}
"""


def start(stacks: Path, body: str, minutes: float | None = 1.5 / 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(minutes=minutes, body=body), str(stacks)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RANK": "3"}
    environment.pop("FD_SCALE_ERROR_FOLDER", None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_hang_ends_with_75_one_line_and_the_stack_on_disk(tmp_path):
    stacks = tmp_path / "rank_00003.stacks"
    code, errors = end_of(start(stacks, "hang_here()"))
    assert code == 75
    assert errors.startswith("fd-scale: rank 3 ")
    assert errors.count("\n") == 1
    assert f"no sign of life for 0.025 minutes at step 7; the stacks of its threads are in {stacks}" in errors
    assert "start the same command again to resume" in errors
    assert "in hang_here" in stacks.read_text()
    assert "no sign of life for 0.025 minutes at step 7" in stacks.read_text()


def test_the_stacks_of_an_earlier_hang_stay(tmp_path):
    stacks = tmp_path / "rank_00003.stacks"
    for _ in range(2):
        assert end_of(start(stacks, "hang_here()"))[0] == 75
    assert stacks.read_text().count("in hang_here") == 2


@pytest.mark.parametrize("storage", ["hangs", "is gone"])
def test_a_hang_of_the_storage_itself_ends_with_75_too(tmp_path, storage):
    stacks = tmp_path / "stacks" if storage == "hangs" else tmp_path / "gone" / "stacks"
    if storage == "hangs":
        os.mkfifo(stacks)  # to open it for writing waits for a reader, for ever
    code, errors = end_of(start(stacks, "hang_here()"))
    assert code == 75
    assert errors.count("\n") == 1
    assert f"could not be written to {stacks}" in errors


def test_work_that_takes_longer_than_the_limit_goes_on_while_it_gives_signs_of_life(tmp_path):
    assert end_of(start(tmp_path / "stacks", "work(150)")) == (0, "")
    assert not (tmp_path / "stacks").exists()


def test_a_suspended_job_has_not_hung(tmp_path):
    process = start(tmp_path / "stacks", "work(100)")
    assert process.stdout is not None
    assert process.stdout.readline() == "works\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    assert end_of(process) == (0, "")


def test_what_comes_before_the_first_sign_of_life_or_after_a_rest_is_not_watched(tmp_path):
    assert end_of(start(tmp_path / "stacks", "watchdog.rest(); time.sleep(4)")) == (0, "")


def test_without_minutes_nothing_watches(tmp_path):
    before = threading.active_count()
    with Watchdog(None, tmp_path / "stacks"):
        assert threading.active_count() == before


def test_nothing_watches_after_the_block(tmp_path):
    before = threading.active_count()
    with Watchdog(5, tmp_path / "stacks"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_is_refused(tmp_path, minutes):
    with pytest.raises(BadInput, match=r"run\.watchdog_minutes="):
        Watchdog(minutes, tmp_path / "stacks")
