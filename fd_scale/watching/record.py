"""status.json of a run folder: what only the run itself knows. Rank 0 writes it at logged steps.

step, steps, time          how far it was when, in seconds since 1970 by the clock of rank 0's host
first_step, started        where and when this start began
values, seconds_left       the numbers of the last logged step, and how long the rest will take
hosts                      host -> its ranks
own_seconds                of each rank for a step, without waiting for others (`fd_scale.train.own_time`)
checkpoint                 the newest whole one that this start has written, and when; null before the first
ended                      null, `complete` or `stopped` (as asked, after saving)
"""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fd_scale.files import write_whole

FILE = "status.json"
FORMAT = 1
SECONDS_BETWEEN = 2.0
"""Between two writes, which are synced to the disk; a run may log every step of some milliseconds."""


class RunStatus:
    """Of a run that is training; on rank 0. Whatever shows the run asks its attributes, from any thread."""

    def __init__(
        self, folder: Path, steps: int, first_step: int, global_batch: int, starts: int, rank_hosts: Sequence[str]
    ):
        """
        Args:
            starts: of the run so far, with this one.
            rank_hosts: host of each rank.
        """
        self.file, self.steps, self.first_step, self.global_batch = folder / FILE, steps, first_step, global_batch
        self.name, self.starts = folder.name, starts
        self.hosts: dict[str, list[int]] = {}
        for rank, host in enumerate(rank_hosts):
            self.hosts.setdefault(host, []).append(rank)
        self.started = time.time()
        self.step, self.stepped_at = first_step, time.monotonic()
        self.values: dict[str, float] = {}
        self.own_seconds: list[float] = []
        self.checkpoint: tuple[int, float] | None = None
        self.ended: str | None = None
        self._written = float("-inf")
        self.write()

    def advance(self, step: int) -> None:
        """Count a step. Costs nothing."""
        self.step, self.stepped_at = step, time.monotonic()

    def log(self, values: dict[str, float], own_seconds: list[float], checkpoint: tuple[int, float] | None) -> None:
        """Take in what is logged of the step, and write it down if that is due.

        Args:
            own_seconds: of each rank; see `fd_scale.train.own_time`.
            checkpoint: step and time of the newest one that is whole.
        """
        self.values, self.own_seconds, self.checkpoint = values, own_seconds, checkpoint
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self.write()

    def end(self, checkpoint: tuple[int, float] | None) -> None:
        """Note that the run is done, or has stopped as asked; all is saved."""
        self.checkpoint = checkpoint
        self.ended = "complete" if self.step >= self.steps else "stopped"
        self.write()

    def seconds_left(self) -> float | None:
        """Seconds that are left at the speed of the last logged steps; None before the first."""
        rate = self.values.get("images_per_second", 0.0)
        return (self.steps - self.step) * self.global_batch / rate if rate else None

    def slowest_ratio(self) -> float | None:
        """Own time of the slowest rank in that of the median rank, 1 where all are alike; None before it is known."""
        return slowest(self.own_seconds)[1] if self.own_seconds else None

    def write(self) -> None:
        content: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "steps": self.steps,
            "time": time.time(),
            "first_step": self.first_step,
            "started": self.started,
            "values": self.values,
            "seconds_left": self.seconds_left(),
            "hosts": self.hosts,
            "own_seconds": self.own_seconds,
            "checkpoint": self.checkpoint,
            "ended": self.ended,
        }
        write_whole(self.file, json.dumps(content, indent=1))
        self._written = time.monotonic()


def slowest(own_seconds: Sequence[float]) -> tuple[int, float]:
    """The slowest rank, and its time in that of the median rank."""
    rank = max(range(len(own_seconds)), key=lambda rank: own_seconds[rank])
    median = statistics.median_low(own_seconds)  # of two ranks the faster, or neither could be slow
    return rank, own_seconds[rank] / median if median > 0 else 1.0
