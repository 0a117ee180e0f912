"""Whatever forks workers may be killed with -9 at any moment: none of them is there a few seconds later."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.parts import sweep

GONE_SECONDS = 3  # torch's own check comes every five

LOADING = """
import sys
from fd_scale.batch_plan import BatchPlan
from fd_scale.data.loader import DataConfig, TrainingData
from fd_scale.data.view import ViewConfig

data = TrainingData(DataConfig(sys.argv[1], ViewConfig(image_size=16), workers=4), seed=0)
print("ready", flush=True)
for batch in data.micro_batches(range(10**6), 0, BatchPlan(48, 48, 1)):
    pass
"""

WAITING = """
import sys, threading, time
from fd_scale.batch_plan import BatchPlan
from fd_scale.data.loader import DataConfig, TrainingData
from fd_scale.data.view import ViewConfig

def load():
    # The rank takes nothing more: the workers wait for room in a pipe, whose other end their siblings hold as well.
    data = TrainingData(DataConfig(sys.argv[1], ViewConfig(image_size=224), workers=4), seed=0)
    batches = data.micro_batches(range(10**6), 0, BatchPlan(48, 48, 1))
    next(batches)
    print("ready", flush=True)
    time.sleep(600)

{start}
"""

PACKING = """
import os
from fd_scale.data.packing.workers import in_workers

def work(task):
    os.write(1, b"ready\\n")  # in one piece, for all four say it
    while True:
        sum(range(10**8))  # holds the interpreter's lock all the while
        yield None

list(in_workers(work, range(4), workers=4))
"""

PROGRAMS = {
    "loading": LOADING,
    "waiting": WAITING.replace("{start}", "load()"),
    "waiting in a thread": WAITING.replace("{start}", "threading.Thread(target=load).start()"),
    "packing": PACKING,
}
CASES = [(name, trial) for name in PROGRAMS for trial in range(10)]


def group(leader: int) -> list[int]:
    """The processes of a process group that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, _, group = status.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state not in "ZX":
                found.append(int(status.parent.name))
    return found


@pytest.mark.real_start
@pytest.mark.parametrize(("name", "trial"), sweep(CASES, [("loading", 0), ("waiting in a thread", 0), ("packing", 0)]))
def test_no_worker_outlives_a_killed_rank(name, trial, shards):
    """Started for real: the program under test must be the parent of its workers and of nothing else."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAMS[name], str(shards)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert program.stdout.readline() == b"ready\n"
        # From the fork of the first worker to their being at work.
        time.sleep(random.Random(f"{name} {trial}").random() * 0.5)
        program.kill()
        program.wait()
        give_up = time.monotonic() + GONE_SECONDS
        while left := group(program.pid):
            assert time.monotonic() < give_up, f"{len(left)} processes outlive the rank"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.stdout.close()
