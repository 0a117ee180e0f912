"""Ends a run that hangs, with 75 and with the stacks of all threads on disk.

A loop says `alive` at every micro-batch and around every save. A thread of each rank counts how long it has not; when
that is too long it writes the stacks to a file of its rank and, a tenth later, ends the process. The tenth is for the
other ranks, whose last sign may be a little younger, to write theirs. The rank that hangs gave the oldest sign and so
writes first; the others show where they waited for it. The run resumes from its newest checkpoint.

Beside `parallel.timeout_minutes`: that one is seen by the ranks that wait in a collective, and never by the rank they
wait for, which may hang in storage, the device or a loader; NCCL's also aborts the process outside of the exit
contract. So the watchdog's time is the shorter one (8 against 10 minutes, tenth included), or the ranks that timed out
would take the job down before the one to look at has said where it is. Whoever raises one raises both.

Time is counted in wakings of the thread: a job that was suspended (Ctrl-Z, `scontrol suspend`) has not hung. Leaves
out: start-up, before the first sign of life; a native call that keeps the interpreter's lock, where no other thread
runs (the other ranks' watchdogs end the job); the stacks of data loader processes.
"""

import contextlib
import faulthandler
import threading
import typing
from datetime import UTC, datetime
from pathlib import Path

from fd_scale.errors import BadInput, Retry
from fd_scale.exits import START_AGAIN, end_at_once, this_rank
from fd_scale.fields import Minutes

TIMES = typing.get_args(Minutes)[1]
LIMIT_TICKS = 20
GRACE_TICKS = 2  # a tenth


class Watchdog:
    """Watches while its `with` block runs."""

    def __init__(self, minutes: float | None, stacks: Path, option: str = "run.watchdog_minutes"):
        """
        Args:
            minutes: without a sign of life; None never ends anything.
            stacks: the file of this rank; what it holds from earlier hangs stays.
            option: what `minutes` is called in the configuration.

        Raises:
            BadInput: no time at all, or one that no clock counts to: the thread that waits for it would end at once.
        """
        if minutes is not None and minutes not in TIMES:
            raise BadInput(f"{option}={minutes} is no time; {TIMES.advice(whole=False)}, or null to turn it off")
        self.minutes, self.stacks, self.option = minutes, stacks, option
        self._step = self._signs = 0
        self._over = threading.Event()
        self._written = threading.Event()
        self._thread: threading.Thread | None = None

    def alive(self, step: int | None = None) -> None:
        """A sign of life; `step` is the one being worked at, or the one being saved; by default the one before."""
        self._step = self._step if step is None else step
        self._signs += 1

    def rest(self) -> None:
        """What follows may take any time, until the next sign of life."""
        self._signs = 0

    def __enter__(self) -> "Watchdog":
        if self.minutes is not None:
            self._thread = threading.Thread(target=self._watch, args=(self.minutes,), name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self, minutes: float) -> None:
        seen, silent = self._signs, 0
        while not self._over.wait(minutes * 60 / LIMIT_TICKS):
            silent = silent + 1 if self._signs == seen and seen else 0
            seen = self._signs
            if silent == LIMIT_TICKS:
                # By another thread: where the storage is what hangs, so does the writing.
                threading.Thread(target=self._write_stacks, args=(minutes,), daemon=True).start()
            if silent == LIMIT_TICKS + GRACE_TICKS:
                where = "are in" if self._written.is_set() else "could not be written to"
                end_at_once(
                    Retry(
                        f"{this_rank()} gave no sign of life for {minutes:g} minutes at step {self._step}; the stacks "
                        f"of its threads {where} {self.stacks}; {START_AGAIN}, with a higher {self.option} if it "
                        f"was only slow"
                    )
                )

    def _write_stacks(self, minutes: float) -> None:
        with contextlib.suppress(OSError), open(self.stacks, "a") as file:
            time = datetime.now(UTC).isoformat(timespec="seconds")
            print(f"{time}: no sign of life for {minutes:g} minutes at step {self._step}", file=file, flush=True)
            faulthandler.dump_traceback(file, all_threads=True)
            self._written.set()
