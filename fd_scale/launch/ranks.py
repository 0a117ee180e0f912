"""The ranks of this machine, as processes that cannot outlive their launcher.

All of them, with whatever they start (DataLoader workers), live in one process group of their own:
- a terminal's Ctrl-C reaches the launcher alone, which passes it on once, as SIGTERM, to the ranks but not to their
  workers: a rank needs its workers to finish the step;
- the group belongs to a keeper, a shell that waits on a pipe from the launcher. However the launcher ends, kill -9
  included, the pipe closes, and the keeper kills the group, itself with it.
Leaves out: a grandchild that moves itself to another process group.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from fd_scale.errors import EXIT_BUG, EXIT_RETRY
from fd_scale.exits import START_AGAIN, Failure, record_path
from fd_scale.launch.environment import Node, rank_environment
from fd_scale.launch.words import for_ranks

KEEPER = ("/bin/sh", "-c", 'trap "" TERM INT HUP; read line; kill -KILL 0')
TAIL_LINES, TAIL_BYTES, LAST_LINE_LENGTH = 30, 3000, 200
SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}
# Sent from outside to take a healthy process away. Any other signal means that the process itself went wrong.
TAKEN_AWAY = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Group:
    """A process group that is empty when the `with` block, or this process, has ended."""

    def __enter__(self) -> "Group":
        self.keeper = subprocess.Popen(
            KEEPER, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.keeper.pid, signal.SIGKILL)
        self.keeper.communicate()

    @property
    def id(self) -> int:
        return self.keeper.pid


class Rank:
    """One rank; a `watch.Child`. Rank 0 has our stdout and stderr, any other writes a log."""

    def __init__(
        self, node: Node, local_rank: int, program: Sequence[str], command: Sequence[str], group: Group, folder: Path
    ):
        self.rank = node.first_rank + local_rank
        self.host = node.host
        self.record = record_path(folder, self.rank)
        self.log = None if self.rank == 0 else folder / f"rank_{self.rank}.log"
        self.asked_to_end = False
        self.known_failure: Failure | None = None
        words, secrets = for_ranks(command)
        with contextlib.ExitStack() as opened:
            output = opened.enter_context(self.log.open("wb")) if self.log else None
            self.process = subprocess.Popen(
                [*program, *words],
                env={**rank_environment(node, local_rank, folder), **secrets},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=group.id,
            )

    def running(self) -> bool:
        return self.process.poll() is None

    def failure(self) -> Failure | None:
        if self.known_failure is None:
            code = self.process.poll()  # before the record is looked for: it is written before the end
            if self.record.exists():
                recorded = Failure.from_json(self.record.read_text())
                self.known_failure = recorded if recorded.exit_code != EXIT_BUG else self._with_tail(recorded)
            elif code:
                self.known_failure = self._of_exit(code)
        return self.known_failure

    def terminate(self) -> None:
        if not self.asked_to_end:
            self.asked_to_end = True
            self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def _of_exit(self, code: int) -> Failure:
        name = f"rank {self.rank} ({self.host})"
        now = time.time()
        if code > 0:
            return self._with_tail(Failure(code, f"{name} ended with exit code {code}", now))
        if self.asked_to_end and -code == signal.SIGTERM:
            return Failure(EXIT_RETRY, f"{name} was stopped by SIGTERM before it could save; {START_AGAIN}", now)
        killed = f"{name} was killed by signal {-code} ({SIGNAL_NAMES.get(-code, 'no name')})"
        if -code in TAKEN_AWAY:
            said = f", after {last_line(self.log)!r}" if self.log and last_line(self.log) else ""
            return Failure(EXIT_RETRY, f"{killed}{said}: out of memory or preempted; {START_AGAIN}", now)
        return self._with_tail(Failure(EXIT_BUG, killed, now))

    def _with_tail(self, failure: Failure) -> Failure:
        """Rank 0's output has been seen; of any other one the user sees this much."""
        if self.log is None:
            return Failure(failure.exit_code, f"{failure.line}; its output is above", failure.time)
        line = f"{failure.line}; the whole log is {self.log} on {self.host}"
        return Failure(failure.exit_code, line, failure.time, tail=tail_of(self.log))


def last_line(log: Path) -> str:
    """What a rank said last, if anything, cut to what an error line has room for."""
    lines = [line.strip() for line in tail_of(log).splitlines() if line.strip()]
    return lines[-1][-LAST_LINE_LENGTH:] if lines else ""


def tail_of(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:  # some systems clear /tmp of what lay there for days
        text = ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])
