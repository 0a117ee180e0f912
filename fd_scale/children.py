"""Child processes that end with the process that started them, and whose own end is reported in one line.

However the parent ends: kill -9 leaves none behind. Without this a worker notices only when it next asks for work, or
never: one that waits for room in a pipe to the dead process waits for as long as a sibling holds the other end.

torch tells of a dead worker by an exception out of a signal handler. It may strike at any instruction of the parent,
more than once, or after the torn message of that worker, which says of nothing why.

A leaf: every package may import it, it imports nothing else of the package.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
POLL_SECONDS = 0.5
DEATH_SECONDS = 1.0  # after a torn message; the worker that died of itself closes its pipes at once
_NO_MORE = object()
_libc = ctypes.CDLL(None)  # before any fork, so that a child has nothing left to load


class EndWithParent:
    """Guard that ends a forked child when its parent ends.

    Make it in the parent, and call it first thing in every forked child.

    Also a `worker_init_fn` of torch's DataLoader.
    """

    def __init__(self, then: Callable[..., Any] | None = None):
        """`then`: called after it, with the same arguments."""
        self.parent = os.getpid()
        # The kernel's signal comes when the thread that forked ends; only the main one lasts as long as its process.
        self.lasting = threading.get_native_id() == self.parent
        self.then = then

    def __call__(self, *arguments: Any) -> None:
        if not (self.lasting and _ask_kernel()):
            threading.Thread(target=self._watch, daemon=True).start()
        if os.getppid() != self.parent:  # it ended before anything was asked
            os._exit(1)
        sys.excepthook = _quiet_where_the_parent_left
        if self.then is not None:
            self.then(*arguments)

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)


def told_of_deaths(loader: Any, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Yield what an iterator of torch's DataLoader gives, and notice a worker's death.

    It is noticed while a batch is waited for, and nowhere else.

    Args:
        loader: of torch.
        start: gives its iterator; workers that wait already may die in it.

    Raises:
        RuntimeError: a worker died, in torch's words, which say of what.
    """
    batches = _Guarded(loader, start)
    try:
        while (batch := batches.next()) is not _NO_MORE:
            yield batch
    finally:
        batches.inner = None  # an error keeps this frame, which must not keep the workers


class _Guarded:
    waiting = False
    """Whether this process waits for a batch. Only then may torch's handler strike, and only once."""

    def __init__(self, loader: Any, start: Callable[[], Iterator[Any]]):
        self.loader, self.start = loader, start
        self.inner: Any = None

    def next(self) -> Any:
        _Guarded.waiting = True
        try:
            if self.inner is None:
                self.inner = self.start()
                hear_of_deaths_only_while_waiting()
            return next(self.inner, _NO_MORE)
        except (EOFError, OSError, RuntimeError) as error:
            _Guarded.waiting = False
            self._name_the_dead(error)
            raise
        finally:
            _Guarded.waiting = False

    def _name_the_dead(self, error: Exception) -> None:
        # The loader keeps the iterator whose workers wait between two iterations.
        iterator = self.loader._iterator if self.inner is None else self.inner
        workers = {worker.sentinel: worker for worker in getattr(iterator, "_workers", [])}
        for ended in wait(list(workers), DEATH_SECONDS) if workers else []:  # of nothing, it waits all the same
            worker = workers[ended]
            worker.join()  # what it left open is closed before it has an exit code
            if worker.exitcode < 0:
                ended_by = signal.strsignal(-worker.exitcode)
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: {ended_by}") from error


def hear_of_deaths_only_while_waiting() -> None:
    """Put a handler around torch's, which torch sets when the first workers of a process start.

    For those who start workers some time before they iterate through `told_of_deaths`, which calls it too.
    """
    torchs = signal.getsignal(signal.SIGCHLD)
    ours = getattr(torchs, "only_while_waiting", False)
    if ours or not callable(torchs) or threading.current_thread() is not threading.main_thread():
        return

    def handle(number: int, frame: Any) -> None:
        if _Guarded.waiting:
            torchs(number, frame)

    handle.only_while_waiting = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handle)


def _quiet_where_the_parent_left(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A parent that ends while it takes a batch is no error of the thread that gives it."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _ask_kernel() -> bool:
    """Whether the kernel will kill this process with its parent, even inside a decoder; Linux can."""
    prctl = getattr(_libc, "prctl", None)
    return prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
