"""A few processes that work through a list of tasks and report as they go.

Against `concurrent.futures`: progress inside a task, a worker that is killed ends the job with one line instead of
never, and no worker outlives its parent, not even one that was killed with -9.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from fd_scale.children import EndWithParent
from fd_scale.errors import Retry

Task = TypeVar("Task")
Event = TypeVar("Event")
READY, EVENTS, FAILED = range(3)
REPORT_SECONDS = 0.1  # between two reports; one for each small image would cost more than the image
KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)  # by someone; other signals are crashes


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(function: Callable[[Task], Iterator[Event]], tasks: Iterable[Task], workers: int) -> Iterator[Event]:
    """Yield what `function` yields for every task, as it comes; the order between tasks is chance.

    One worker is this process itself. An exception ends all.

    Raises:
        Retry: a worker was killed.
    """
    if workers <= 1:
        for task in tasks:
            yield from function(task)
        return
    lanes = _start(function, workers)
    todo = iter(tasks)
    try:
        while lanes:
            for lane in wait(list(lanes)):
                assert isinstance(lane, Connection)
                with _notice_death(lanes[lane]):
                    kind, value = lane.recv()
                if kind == EVENTS:
                    yield from value
                elif kind == FAILED:
                    raise value
                else:
                    following = next(todo, None)
                    with _notice_death(lanes[lane]):
                        lane.send(following)
                    if following is None:
                        lanes.pop(lane).join()
    finally:
        for process in lanes.values():
            process.kill()  # what it had begun is begun again by the next command
            process.join()


def _start(function: Callable, workers: int) -> dict[Connection, BaseProcess]:
    # Forked: nothing has to be importable or picklable, and a caller's script needs no `if __name__` guard.
    context = multiprocessing.get_context("fork")
    lanes: dict[Connection, BaseProcess] = {}
    end_with_parent = EndWithParent()
    for _ in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(function, theirs, end_with_parent), daemon=True)
        process.start()
        theirs.close()
        lanes[ours] = process
    return lanes


@contextlib.contextmanager
def _notice_death(process: BaseProcess) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        process.join()
        if process.exitcode not in KILLED:
            raise RuntimeError(f"a worker process crashed with status {process.exitcode}") from None
        raise Retry(
            f"a worker process was killed by signal {-process.exitcode}, often for want of memory; start the same "
            f"command again, perhaps with fewer --workers: it goes on from the finished shards"
        ) from None


def _work(function: Callable, lane: Connection, end_with_parent: EndWithParent) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(ConnectionError, EOFError):  # the parent is gone
        lane.send((READY, None))
        while (task := lane.recv()) is not None:
            try:
                _report(lane, function(task))
            except ConnectionError:
                raise
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                lane.send((FAILED, error))
            lane.send((READY, None))


def _report(lane: Connection, events: Iterator) -> None:
    waiting, due = [], time.monotonic() + REPORT_SECONDS
    for event in events:
        waiting.append(event)
        if time.monotonic() > due:
            lane.send((EVENTS, waiting))
            waiting, due = [], time.monotonic() + REPORT_SECONDS
    lane.send((EVENTS, waiting))
