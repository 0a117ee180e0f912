"""Signals that end a short verb as an exception does: what it holds is released, what it began is removed."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from fd_scale.signals import ENDING_SIGNALS, untaken


class _Ended(BaseException):
    """A signal, on its way through the `finally` clauses."""


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let these signals unwind the block before they end the process, where nobody else has use for them."""
    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS if ours and untaken(number)}
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        for taken in before:
            signal.signal(taken, signal.SIG_IGN)  # once is enough
        received.append(number)
        raise _Ended

    for number in before:
        signal.signal(number, receive)
    try:
        yield
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        os.kill(os.getpid(), received[0])  # which ends it as `exits` or the system does
