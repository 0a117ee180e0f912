"""The rounds of one launch: see `launch.elastic`, which says what they are for."""

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fd_scale.errors import EXIT_RETRY, BadInput, Expected, Retry
from fd_scale.exits import START_AGAIN, Failure
from fd_scale.launch.elastic import Again
from fd_scale.launch.elastic.probing import Answer, Lookout, Probing, State
from fd_scale.launch.elastic.quiet_lease import wait_until_quiet
from fd_scale.launch.elastic.ready import LAUNCH
from fd_scale.launch.elastic.worlds import largest_world, possible_worlds, worlds_line
from fd_scale.launch.watch import STOP, Orders
from fd_scale.lease import OF_RUN
from fd_scale.redaction import redacted_text

STOPPED_EXIT = "FD_SCALE_STOPPED_EXIT"
"""With it, 0 means that the work is done, also where something else than this launcher has stopped the ranks."""
SAVED = re.compile(r"^stopped by a signal after step \d+ of \d+, which is saved")
"""What ranks say then (`fd_scale.stops.stopped_exit`)."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
"""Seconds before the first restart without progress, doubled for each one after it, and the longest."""
ENDING_SECONDS = 40.0
"""For ranks of the last round to end on a host that has lost its launcher: twice the grace of their own."""
ASK_AGAIN_SECONDS = 2.0

Attempt = Callable[[Mapping[str, int] | None, Orders], Failure | None]
"""Runs all ranks once, on hosts with so many each, or here."""


@dataclass
class Rounds:
    """All rounds of one launch."""

    attempt: Attempt
    slots: Mapping[str, int] | None
    """Of the hosts; None for ranks on this machine."""
    again: Again
    orders: Orders
    launch: str = field(default_factory=lambda: secrets.token_hex(8))
    done: list[str] = field(default_factory=list)
    """What is said of each round at the end."""
    in_vain: int = 0
    """Restarts since the newest checkpoint came to be."""
    newest: int = 0
    """Step of that checkpoint."""
    absent: str = ""
    """What is said of the hosts that could not take part."""

    def run(self) -> Failure | None:
        """Run rounds until one is the last, and end as it does. Raises BadInput."""
        began = time.monotonic()
        own = os.environ.get(STOPPED_EXIT, "").strip() or "0"
        told_apart = own == "0"  # else it is 75, or a value that the ranks refuse
        changes = {LAUNCH: self.launch, **({STOPPED_EXIT: str(EXIT_RETRY)} if told_apart else {})}
        with _environment(changes):
            failure = self._run()
        if told_apart and failure and self.orders.level == STOP and SAVED.search(failure.line):
            failure = None  # as the user would see it of a launch that starts once
        if self.again.bounds or len(self.done) > 1:
            count = f"{len(self.done)} round{'s' if len(self.done) != 1 else ''}"
            _say(f"{count} in {time.monotonic() - began:.0f} s: {', '.join(self.done)}")
        return failure

    def _run(self) -> Failure | None:
        possible = self._possible()
        self.newest = self._newest_step()
        why, ranks = "the start", self.slots
        if self.again.bounds:
            ranks = self._gathered(possible, {}, first=True)
        while True:
            if self.orders.level:
                return _stopped_between_rounds()
            began = time.monotonic()
            self._say_round(ranks, why)
            failure, back = self._round(ranks, possible)
            self._note(ranks, time.monotonic() - began)
            if failure is None or failure.exit_code != EXIT_RETRY or self.orders.level:
                return failure
            if back:
                why = f"{', '.join(sorted(back))} can take ranks again"
            else:
                refused = self._count(failure)
                if refused:
                    return refused
                why = f"restart {self.in_vain} of {self.again.restarts}: {without_advice(failure.line)}"
                self._pause(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self.in_vain - 1)))
            if self.slots is not None:
                try:
                    ranks = self._gathered(possible, ranks or {})
                except Retry as error:
                    return Failure(EXIT_RETRY, str(error), time.time())

    def _possible(self) -> list[int]:
        """Numbers of ranks that a round may have. Says which, where there may be several."""
        total = sum((self.slots or {}).values())
        work = self.again.work
        if not self.again.bounds or work is None:
            return [total]
        possible, skipped = possible_worlds(self.again.bounds, total, work.global_batch, work.micro_batch)
        _say(worlds_line(possible, skipped, work.global_batch, work.micro_batch))
        return possible

    def _round(self, ranks: Mapping[str, int] | None, possible: Sequence[int]) -> tuple[Failure | None, set[str]]:
        """One round, and the hosts for whose sake it was stopped."""
        if self.slots is None or ranks is None:
            return self.attempt(None, self.orders), set()
        slots, now = self.slots, sum(ranks.values())
        back = set[str]()

        def found(ready: set[str]) -> bool:
            would_be = largest_world({host: slots[host] for host in slots if host in ranks or host in ready}, possible)
            if sum(would_be.values()) > now:
                back.update(ready)
            return bool(back)

        more_is_possible = sum(largest_world(slots, possible).values()) > now
        missing = [host for host in slots if host not in ranks] if more_is_possible else []
        with Lookout(self.launch, self._folder, missing, self.again.probe_every, found):
            return self.attempt(ranks, RoundOrders(self.orders, lambda: bool(back))), back

    def _gathered(self, possible: Sequence[int], before: Mapping[str, int], first: bool = False) -> dict[str, int]:
        """Ranks of each host for the largest world that the hosts can make now; waits until there is one.

        Args:
            before: ranks of the last round. Its ranks may still be ending on a host that has lost its launcher.

        Raises:
            Retry: not enough hosts answered in time.
            BadInput: at the very start a host answers and has not the folder or Python that it needs.
        """
        assert self.slots is not None
        began, announced = time.monotonic(), False
        with Probing(self.launch, self._folder, lambda: bool(self.orders.level)) as probing:
            while True:
                answers = probing.ask(list(self.slots))
                _refuse_unfit(answers, first)
                ready = {host: self.slots[host] for host, answer in answers.items() if answer.state is State.READY}
                ranks = largest_world(ready, possible)
                waited = time.monotonic() - began
                ending = any(answer.state is State.BUSY for answer in answers.values()) and waited < ENDING_SECONDS
                if (ranks and not ending) or self.orders.level:
                    break
                missing = "; ".join(f"{host} {answer}" for host, answer in answers.items() if host not in ready)
                if waited > self.again.wait_for_hosts and not ending:
                    raise Retry(
                        f"{sum(ready.values())} slots of the hostfile are there, and {possible[0]} are needed: "
                        f"{missing}; waited for {waited:.0f} s; {START_AGAIN}"
                    )
                if not announced:
                    announced = True
                    _say(f"waiting for hosts: {missing}")
                self._pause(ASK_AGAIN_SECONDS)
        silent = [f"{host}, which {answer}" for host, answer in answers.items() if host not in ready]
        self.absent = f"; without {', and '.join(silent)}" if silent else ""
        if before and self.again.work and next(iter(before)) not in ready:
            wait_until_quiet(self.again.work.folder / OF_RUN, self._pause)
        return ranks

    def _count(self, failure: Failure) -> Failure | None:
        """One more restart; or the failure to end with where too many were in vain."""
        newest = self._newest_step()
        if newest > self.newest:
            self.newest, self.in_vain = newest, 0
        self.in_vain += 1
        if self.in_vain <= self.again.restarts:
            return None
        if not self.again.restarts:
            return failure
        end = f"gave up after {self.again.restarts} restarts without a new checkpoint; {START_AGAIN}"
        return replace(failure, line=f"{without_advice(failure.line)}; {end}")

    def _newest_step(self) -> int:
        """0 where it cannot be known from here, so that no restart counts as progress."""
        try:
            return self.again.work.newest_step() if self.again.work else 0
        except (OSError, Expected):
            return self.newest

    def _folder(self) -> Path | None:
        """Of the run, where it is there as seen from here: then every host must see it."""
        work = self.again.work
        return work.folder if work and work.folder.is_dir() else None

    def _pause(self, seconds: float) -> bool:
        """Waits; False at once when the user has asked for an end."""
        until = time.monotonic() + seconds
        while not self.orders.level and (left := until - time.monotonic()) > 0:
            self.orders.wait(min(left, 0.2))
        return not self.orders.level

    def _say_round(self, ranks: Mapping[str, int] | None, why: str) -> None:
        if self.done or self.again.bounds:
            where = "this machine" if ranks is None else ", ".join(f"{host} ({n})" for host, n in ranks.items())
            what = f"{_ranks(ranks)} on {where}; {why}{self.absent}"
            _say(f"{time.strftime('%H:%M:%S')} round {len(self.done) + 1}: {what}")

    def _note(self, ranks: Mapping[str, int] | None, seconds: float) -> None:
        self.done.append(f"{_ranks(ranks)} for {seconds:.0f} s")


class RoundOrders(Orders):
    """Orders of the outside, and our own to stop when more ranks are possible."""

    def __init__(self, outside: Orders, more_is_possible: Callable[[], bool]):
        super().__init__(outside.grace_seconds)
        self.outside, self.more_is_possible = outside, more_is_possible

    def wait(self, seconds: float) -> None:
        self.outside.wait(seconds)
        self._raise_to(max(self.outside.level, STOP if self.more_is_possible() else 0))


def without_advice(line: str) -> str:
    """A line without the advice to do what is being done."""
    return re.sub(rf"[,;] {START_AGAIN}", "", line)


def _refuse_unfit(answers: Mapping[str, Answer], first: bool) -> None:
    unfit = [f"host {host}: {answer.reason}" for host, answer in answers.items() if answer.state is State.UNFIT]
    if first and unfit:
        raise BadInput(
            f"{'; '.join(unfit)}; the working folder, Python, this package and the run folder must have the same paths "
            f"on every host"
        )


def _ranks(ranks: Mapping[str, int] | None) -> str:
    count = sum((ranks or {}).values())
    return "the ranks" if ranks is None else f"{count} rank{'s' if count != 1 else ''}"


def _stopped_between_rounds() -> Failure:
    return Failure(EXIT_RETRY, f"stopped by a signal while no ranks were running; {START_AGAIN}", time.time())


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that has gone
        print(redacted_text(f"fd-scale: {line}"), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """For the ranks, here and on other hosts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
