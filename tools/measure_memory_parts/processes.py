"""Resident memory of processes, as Linux counts it."""

import contextlib
import os
import signal
import threading
import time
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


class Watch:
    """Samples all descendants of this process in a thread, and kills them where together they pass a limit.

    Attributes:
        peak: bytes of all of them together.
        samples: (seconds since the epoch, bytes by process).
    """

    def __init__(self, limit: float):
        self.limit, self.peak, self.exceeded = limit, 0, False
        self.samples: list[tuple[float, dict[int, int]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def peak_of(self, pid: int, until: float) -> int:
        """Bytes of one process, before a time."""
        return max((sizes[pid] for when, sizes in self.samples if pid in sizes and when <= until), default=0)

    def _sample(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            sizes = {}
            for pid in descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    sizes[pid] = resident(pid)
            self.samples.append((time.time(), sizes))
            self.peak = max(self.peak, sum(sizes.values()))
            if sum(sizes.values()) > self.limit:
                self.exceeded = True
                for pid in sizes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
