"""Waits for children that may be ranks here or whole hosts behind ssh, and decides which failure is the one to report.

A child that fails takes its peers along: they lose their connections to it and fail as well, often sooner than it has
finished ending. So a failure of a rank's own beats any that only says "lost a peer", and only then time decides.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fd_scale.errors import EXIT_RETRY
from fd_scale.exits import START_AGAIN, Failure
from fd_scale.launch.heartbeat import ALIVE, LIMIT, Silence

POLL_SECONDS = 0.05
SETTLE_SECONDS = 5.0  # how long a "lost a peer" waits for the failure that explains it
KILL_SECONDS = 10.0  # to wait for a killed child; one that hangs in dead storage may not even end then
STOP, KILL = 1, 2  # levels of `Orders`
ORDER_OF_LINE = {b"terminate": STOP, b"kill": KILL}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Child(Protocol):
    def running(self) -> bool: ...

    def failure(self) -> Failure | None:
        """Failure, as soon as it is known, which may be before the child has ended."""

    def terminate(self) -> None:
        """Ask to finish the step, save and end with 0; a repetition does nothing."""

    def kill(self) -> None:
        """End the child without asking; does not wait for its end."""


class Orders:
    """What the outside has asked for so far: nothing (0), STOP, or KILL.

    Signals raise the level by one each. On a host behind ssh so do the lines of `control`; its end, or its silence
    (`launch.heartbeat`), means that the connection or the launcher at the other end is gone: STOP, and KILL after
    `grace_seconds`. `answer` is called for every sign of life.
    """

    def __init__(self, grace_seconds: float, control: int | None = None, answer: Callable[[], None] = lambda: None):
        self.level = 0
        self.control = control
        self.answer = answer
        self.silence = Silence(float("inf"))  # until the other end has said otherwise
        self.grace_seconds = grace_seconds
        self.kill_at = float("inf")
        self.unread = b""
        self.previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Orders":
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                self.previous[number] = signal.signal(number, lambda *_: self._raise_to(self.level + 1))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        if self.control is None:
            time.sleep(seconds)
        elif select.select([self.control], [], [], seconds)[0]:
            self._read_control(self.control)
        if self.control is not None and self.silence.is_over_limit():
            self._lose_control()
        if time.monotonic() > self.kill_at:
            self._raise_to(KILL)

    def _read_control(self, control: int) -> None:
        chunk = os.read(control, 4096)
        *lines, self.unread = (self.unread + chunk).split(b"\n")
        self.silence.heard()
        for line in lines:
            if line == ALIVE:
                self.answer()
            elif line.startswith(LIMIT):
                with contextlib.suppress(ValueError):
                    self.silence = Silence(float(line.removeprefix(LIMIT)))
            self._raise_to(ORDER_OF_LINE.get(line, 0))
        if not chunk:
            self._lose_control()

    def _lose_control(self) -> None:
        self._raise_to(STOP)
        self.kill_at = time.monotonic() + self.grace_seconds
        self.control = None

    def _raise_to(self, level: int) -> None:
        self.level = min(KILL, max(self.level, level))


def first_failure(children: Sequence[Child], orders: Orders) -> Failure | None:
    """Wait until a failure is certain, and return it at once; None once all have ended with 0."""
    settle_until = float("inf")
    while True:
        running = [child for child in children if child.running()]  # before the failures: the last record counts
        failures = [failure for child in children if (failure := child.failure())]
        first = min(failures, key=lambda failure: (failure.lost_peer, failure.time), default=None)
        if not running or (first and (not first.lost_peer or time.monotonic() > settle_until)):
            return first
        if first and settle_until == float("inf"):
            settle_until = time.monotonic() + SETTLE_SECONDS
        if orders.level == KILL:
            line = f"killed before all ranks had saved (a second signal, or a lost connection); {START_AGAIN}"
            return Failure(EXIT_RETRY, line, time.time())
        if orders.level == STOP:
            for child in running:
                child.terminate()
        orders.wait(POLL_SECONDS)


def shut_down(children: Sequence[Child], orders: Orders, grace_seconds: float) -> None:
    """End what still runs: asks, waits for the grace (a KILL order cuts it short), kills, waits for the end."""
    deadline = time.monotonic() + grace_seconds
    while (running := [child for child in children if child.running()]) and orders.level < KILL:
        if time.monotonic() > deadline:
            break
        for child in running:
            child.terminate()
        orders.wait(POLL_SECONDS)
    for child in running:
        child.kill()
    deadline = time.monotonic() + KILL_SECONDS
    while any(child.running() for child in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
