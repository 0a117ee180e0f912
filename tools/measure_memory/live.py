"""The peak of live tensor bytes in a process, from the allocation events of PyTorch's profiler."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile


class LivePeak:
    """Recorder of the allocations of the thread that enters it.

    `peak` is in bytes, and there after the block.

    The profiler keeps some hundred bytes for each operator and allocation, so a few steps cost some ten megabytes.
    """

    def __enter__(self) -> "LivePeak":
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        profiler: Any = self._profile.profiler
        self.peak = peak_of(allocations(profiler.kineto_results.experimental_event_tree()))


def allocations(tree: list[Any]) -> list[tuple[int, int]]:
    """List (address, bytes) of each event, in the order of time; bytes are negative where memory is given back."""
    found, left = [], list(tree)
    while left:
        event = left.pop()
        kind, fields = event.typed
        if kind.name == "Allocation":
            found.append((event.start_time_ns, fields.ptr, fields.alloc_size))
        left += event.children
    return [(address, size) for _, address, size in sorted(found, key=lambda event: event[0])]


def peak_of(events: Iterable[tuple[int, int]]) -> int:
    """Compute the most bytes that were live at once.

    A communication thread may be the last to let go of a tensor, which the profiler does not see. Memory that is handed
    out again was free, so whatever an allocation overlaps is taken as given back before it.
    """
    starts: list[int] = []  # of what is live, sorted
    sizes: dict[int, int] = {}
    live = peak = 0

    def forget(address: int) -> None:
        nonlocal live
        live -= sizes.pop(address)
        del starts[bisect_left(starts, address)]

    for address, size in events:
        if size > 0:
            for other in list(_overlapping(starts, sizes, address, size)):
                forget(other)
            insort(starts, address)
            sizes[address] = size
            live += size
            peak = max(peak, live)
        elif address in sizes:
            forget(address)
    return peak


def _overlapping(starts: list[int], sizes: dict[int, int], address: int, size: int) -> Iterator[int]:
    index = bisect_left(starts, address)
    if index and starts[index - 1] + sizes[starts[index - 1]] > address:
        yield starts[index - 1]
    for start in starts[index:]:
        if start >= address + size:
            return
        yield start
