"""Signs of life between the launcher and the launchers of its hosts, so that a cut is noticed at both ends.

A cable that is pulled tells nobody: the connection looks alive for a quarter of an hour. So every 5 s the line "alive"
goes down each ssh, and comes back up. The far end takes silence for what it takes the end of the connection for: its
ranks are asked to save, and killed 20 s later. The near end takes it for the loss of the host.

Both count silence in their own wakings, of which each counts for one second at most. So an end that was itself
suspended, or whose machine was, does not take that time for silence. The lines are written by a process of their own,
which Ctrl-Z does not reach: a launcher that is suspended on the terminal leaves its ranks at work. One that is
suspended with everything around it (`scontrol suspend`, a closed laptop) is gone for its hosts.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

from fd_scale.fields import Range

LostAfter = Annotated[float, Range(10, 3600)]
"""Seconds."""
LOST_AFTER_SECONDS = 60.0
EVERY_SECONDS = 5
ALIVE = b"alive"
LIMIT = b"lost after "
"""With the seconds behind it, the line that makes the far end count."""
WAKING_SECONDS = 1.0
PROGRAM = """
import os, sys, time
seconds, line, *pipes = sys.argv[1:]
while pipes:
    time.sleep(float(seconds))
    for pipe in list(pipes):
        try:
            os.write(int(pipe), line.encode())
        except OSError:
            pipes.remove(pipe)
"""


class Silence:
    """Seconds without a sign of life from the other end. One thread may hear while another counts."""

    def __init__(self, limit: float):
        self.limit = limit
        self.seconds = 0.0
        self._has_heard = True
        self._woken = 0.0

    def heard(self) -> None:
        self._has_heard = True

    def is_over_limit(self) -> bool:
        """Whether the limit is exceeded; ask many times a second."""
        now = time.monotonic()
        passed, self._woken = min(now - self._woken, WAKING_SECONDS), now
        if self._has_heard:
            self._has_heard, self.seconds = False, 0.0
        else:
            self.seconds += passed
        return self.seconds >= self.limit


@contextlib.contextmanager
def pulse(pipes: Sequence[int], process_group: int) -> Iterator[None]:
    """Give signs of life while the block runs: a process of that group writes to `pipes`, the inputs of ssh."""
    line = f"{ALIVE.decode()}\n"
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", PROGRAM, str(EVERY_SECONDS), line, *map(str, pipes)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=pipes,
        process_group=process_group,
    ) as process:
        try:
            yield
        finally:
            process.kill()


def ssh_options(lost_after: float) -> tuple[str, ...]:
    """What makes ssh itself give up on a host that does not answer, also before the launcher there has begun.

    Asked more often than we write, because older versions of ssh do not ask while there is something to send. A little
    later than our own silence, which says more.
    """
    interval = EVERY_SECONDS - 1
    return ("-o", f"ServerAliveInterval={interval}", "-o", f"ServerAliveCountMax={round(lost_after / interval) + 2}")
