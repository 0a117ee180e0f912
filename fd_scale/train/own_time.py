"""How long a rank is busy with its own part of a step. In a synchronous step all ranks take equally long, because the
fast ones wait for the slowest; whoever asks which one that is must not count the waiting.

On a CPU, own time is what the training thread computes or waits for a processor, as the kernel counts it, and what it
waits for data. A thread that waits for other ranks is neither. On a GPU it is the forward passes by the device's own
clock, and the waiting for data; under ZeRO stage 3 these passes include the gathering of parameters.
Leaves out: a process that is suspended, and time that a hypervisor takes.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from fd_scale.parallel.ranks import Ranks, sum_over_ranks

T = TypeVar("T")

SCHEDULED = Path("/proc/thread-self/schedstat")
"""Nanoseconds of this thread on a processor, and those in which it waited for one; see proc(5)."""


class OwnTime:
    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._seconds, self._steps = 0.0, 0
        self._passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around an optimizer step."""
        began = 0.0 if self._on_gpu else thread_seconds()
        yield
        self._seconds += 0.0 if self._on_gpu else thread_seconds() - began
        self._steps += 1

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The items; waiting for them is own time, whatever this thread does meanwhile."""
        iterator = iter(items)
        while True:
            began, busy = time.monotonic(), 0.0 if self._on_gpu else thread_seconds()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._seconds += time.monotonic() - began
            self._seconds -= 0.0 if self._on_gpu else thread_seconds() - busy  # which `step` counts
            yield item

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Around a forward pass."""
        if not self._on_gpu:
            yield
            return
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        yield
        ended.record()
        self._passes.append((began, ended))

    def of_all_ranks(self, ranks: Ranks) -> list[float]:
        """Seconds a step of each rank since the last call. Collective; called when the steps' losses are known, so that
        the device has done its passes."""
        for began, ended in self._passes:
            self._seconds += began.elapsed_time(ended) / 1000
        own = self._seconds / max(1, self._steps)
        self._seconds, self._steps, self._passes = 0.0, 0, []
        return sum_over_ranks([own if rank == ranks.rank else 0.0 for rank in range(ranks.world)])


def thread_seconds() -> float:
    """Of this thread on a processor or waiting for one; without Linux's account of the second, the first alone."""
    try:
        running, waiting = SCHEDULED.read_bytes().split()[:2]
    except (OSError, ValueError):
        return time.thread_time()
    return (int(running) + int(waiting)) / 1e9
