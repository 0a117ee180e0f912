"""Resident memory of processes, as Linux counts it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

PERIOD_SECONDS = 0.1


def resident(pid: int) -> int:
    """Bytes of resident memory; pages that several processes share count in parts (PSS).

    Raises:
        OSError: the process has ended.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def descendants(pid: int) -> list[int]:
    """The processes that this one and its children have started and that still run."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found[1:]


def resident_together(pids: list[int]) -> int:
    """Bytes of several processes; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += resident(pid)
    return total


class Watch:
    """Samples the ranks and all other descendants of this process in a thread, and kills them at a limit.

    A rank counts with its own children, the data workers, which share the pages of its imports with it.

    Attributes:
        peak: bytes of all descendants together.
        samples: (seconds since the epoch, bytes by rank).
    """

    def __init__(self, limit: float, ranks: Callable[[], dict[int, int]]):
        """`ranks`: the process of each rank that has begun."""
        self.limit, self.ranks, self.peak, self.exceeded = limit, ranks, 0, False
        self.samples: list[tuple[float, dict[int, int]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def peak_of(self, rank: int, until: float) -> int:
        """Bytes of one rank, before a time."""
        return max((sizes[rank] for when, sizes in self.samples if rank in sizes and when <= until), default=0)

    def _sample(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            everything = descendants(os.getpid())
            trees = {rank: [pid, *descendants(pid)] for rank, pid in self.ranks().items()}
            others = [pid for pid in everything if not any(pid in tree for tree in trees.values())]
            sizes = {rank: resident_together(tree) for rank, tree in trees.items()}
            self.samples.append((time.time(), sizes))
            total = sum(sizes.values()) + resident_together(others)
            self.peak = max(self.peak, total)
            if total > self.limit:
                self.exceeded = True
                for pid in everything:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
