"""Resident memory of processes, as Linux counts it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

PERIOD_SECONDS = 0.1


def resident(pids: list[int]) -> int:
    """Measure the resident memory of several processes in bytes; pages that are shared count in parts (PSS).

    A process that has ended has nothing.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _sizes(pid, "smaps_rollup").get("Pss", 0)
    return total


def imported() -> int:
    """Measure the resident memory of this process in bytes, without pages of files."""
    sizes = _sizes(os.getpid(), "status")
    return sizes["RssAnon"] + sizes["RssShmem"]


def high_water(rank: int) -> int:
    """Measure the most bytes that a rank has had so far, by the kernel's own mark.

    Added to it is what its children share with nobody.

    Pages of files are left out. They are code of libraries, which the kernel can drop at any time; the mark counts
    them, and they only grow.

    Raises:
        OSError: the rank has ended.
    """
    sizes = _sizes(rank, "status")
    if "VmHWM" not in sizes:
        raise ProcessLookupError(rank)
    most = sizes["VmHWM"] - sizes["RssFile"]
    for pid in descendants(rank):
        with contextlib.suppress(OSError):
            most += _sizes(pid, "smaps_rollup").get("Private_Dirty", 0)
    return most


def _sizes(pid: int, file: str) -> dict[str, int]:
    """Bytes by name."""
    lines = [line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}


def descendants(pid: int) -> list[int]:
    """List the processes that this one and its children have started and that still run."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found[1:]


class Watch:
    """Thread that samples the ranks and all other descendants of this process, and kills them at a limit.

    A rank counts with its own children, the data workers, which share the pages of its imports with it.

    Attributes:
        peak: bytes of all descendants together, pages of files included.
        samples: (seconds since the epoch, `high_water` by rank).
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
        """Find the most bytes of one rank, before a time."""
        return max((sizes[rank] for when, sizes in self.samples if rank in sizes and when <= until), default=0)

    def _sample(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            everything = descendants(os.getpid())
            found = {}
            for rank, pid in self.ranks().items():
                with contextlib.suppress(OSError):
                    found[rank] = high_water(pid)
            self.samples.append((time.time(), found))
            total = resident(everything)
            self.peak = max(self.peak, total)
            if total > self.limit:
                self.exceeded = True
                for pid in everything:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
