"""The signals that end a process before its loop, if it has one, listens for them itself.

A leaf: it says when a signal has come, and its caller how the process ends.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Sent by a scheduler or a closed terminal."""
_NO_MORE = 0
"""Beside the numbers of signals in the pipe, which begin at 1."""
_pipe: list[int] = []
"""Both ends of it, while it is in use."""
_masks = threading.local()


class _Ending:
    """A handler that calls `end` once: the thread and the handler may hear of one signal at the same time."""

    def __init__(self, end: Callable[[int], None]):
        self.end = end
        self.begun = threading.Lock()

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if self.begun.acquire(blocking=False):
            self.end(number)


def untaken(number: int) -> bool:
    """Whether nobody listens for a signal, so that it ends the process.

    Whoever takes it and gives it back puts the handler that was there before into its place again.
    """
    handler = signal.getsignal(number)
    return handler == signal.SIG_DFL or isinstance(handler, _Ending)


@contextlib.contextmanager
def ended_by_signals(end: Callable[[int], None]) -> Iterator[None]:
    """Let the signals that nobody has taken yet call `end`, from any thread.

    Python runs a handler between two instructions of the main thread, which at the start may wait for its peers for
    minutes in native code. So a thread hears of a signal as well, through the interpreter's wake-up pipe.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending(end)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _pipe.extend((woken, wake))
    taken = [number for number in ENDING_SIGNALS if untaken(number)]
    for number in taken:
        signal.signal(number, ending)
    thread = threading.Thread(target=_hear, args=(woken, ending), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number in taken:
            if untaken(number):
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        _pipe.clear()
        # Not by closing the pipe: the thread would wait for every fork that was made since and has its other end.
        os.write(wake, bytes([_NO_MORE]))
        thread.join()
        os.close(wake)
        os.close(woken)


def _hear(pipe: int, ending: _Ending) -> None:
    while _NO_MORE not in (numbers := os.read(pipe, 64)):
        for number in numbers:
            if number in ENDING_SIGNALS and untaken(number):
                ending(number)


def _before_fork() -> None:
    """A fork's signals are its own. One that comes before it has left ours would be heard by the parent's thread."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    for number in ENDING_SIGNALS:
        if isinstance(signal.getsignal(number), _Ending):
            signal.signal(number, signal.SIG_DFL)
    if _pipe:  # whoever has taken the signals since: the fork's would be written into our thread's pipe
        signal.set_wakeup_fd(-1)
    while _pipe:
        os.close(_pipe.pop())
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
