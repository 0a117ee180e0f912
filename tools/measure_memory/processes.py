"""Resident memory of processes, as Linux counts it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PERIOD_SECONDS = 0.1


@dataclass(frozen=True)
class Resident:
    """Bytes of resident memory; pages that several processes share count in parts (PSS).

    Pages of files are counted apart. They are code of libraries, of which a process has more or less for its part as
    others that have nothing to do with it map the same libraries, and the kernel can drop them at any time.
    """

    own: int = 0
    files: int = 0

    def __add__(self, other: "Resident") -> "Resident":
        return Resident(self.own + other.own, self.files + other.files)


def resident(pid: int) -> Resident:
    """What one process has.

    Raises:
        OSError: the process has ended.
    """
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    sizes = {line[0]: int(line[1]) * 1024 for line in lines if line[0].startswith("Pss")}
    if not sizes:
        raise ProcessLookupError(pid)
    return Resident(sizes["Pss_Anon:"] + sizes["Pss_Shmem:"], sizes["Pss_File:"])


def descendants(pid: int) -> list[int]:
    """The processes that this one and its children have started and that still run."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found[1:]


def resident_together(pids: list[int]) -> Resident:
    """What several processes have; one that has ended has nothing."""
    total = Resident()
    for pid in pids:
        with contextlib.suppress(OSError):
            total += resident(pid)
    return total


class Watch:
    """Samples the ranks and all other descendants of this process in a thread, and kills them at a limit.

    A rank counts with its own children, the data workers, which share the pages of its imports with it.

    Attributes:
        peak: bytes of all descendants together, pages of files included.
        samples: (seconds since the epoch, bytes by rank, without pages of files).
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
            found = {rank: resident_together(tree) for rank, tree in trees.items()}
            self.samples.append((time.time(), {rank: each.own for rank, each in found.items()}))
            whole = sum(found.values(), resident_together(others))
            total = whole.own + whole.files
            self.peak = max(self.peak, total)
            if total > self.limit:
                self.exceeded = True
                for pid in everything:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
