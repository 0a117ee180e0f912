"""Asks hosts by ssh, all at once, whether they can take ranks now. `launch.elastic.ready` answers at the other end.

A host that does not answer in time counts as silent, whatever the reason: it is cut off, has lost power, is starting,
or is too busy to start a process. Leaves out: whether the hosts reach each other.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fd_scale.errors import BadInput
from fd_scale.launch.elastic.ready import BUSY, READY
from fd_scale.launch.environment import forwarded_environment
from fd_scale.launch.hosts import RECEIVER, SSH_FAILED, ssh_program
from fd_scale.launch.ranks import Group

CONNECT_SECONDS = 10
ANSWER_SECONDS = 20.0  # with the start of Python there
POLL_SECONDS = 0.1
AT_ONCE = 64
PROBE = (*RECEIVER, sys.executable, "-m", "fd_scale.launch.elastic.ready")


class State(Enum):
    READY = "is ready"
    BUSY = "is still ending ranks of an earlier round"
    SILENT = "does not answer"
    UNFIT = "cannot take ranks"


@dataclass(frozen=True)
class Answer:
    state: State
    reason: str = ""
    """In the words of ssh or of the host."""

    def __str__(self) -> str:
        return f"{self.state.value} ({self.reason})" if self.reason else self.state.value


class Probing:
    """Asks, until the `with` block has ended; then nothing of it is left."""

    def __init__(
        self,
        launch: str,
        folder: Callable[[], Path | None] = lambda: None,
        over: Callable[[], bool] = lambda: False,
    ):
        """
        Args:
            launch: the id whose ranks must have ended.
            folder: of the run, once there is one.
            over: whether nobody wants the answers any more; then they come at once, and mean nothing.
        """
        self.launch, self.folder, self.over = launch, folder, over

    def __enter__(self) -> "Probing":
        self.group = Group().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.group.__exit__()

    def ask(self, hosts: Sequence[str]) -> dict[str, Answer]:
        """Host -> answer, in the order given. Raises BadInput: there is no ssh here."""
        ssh_program()
        if not hosts:
            return {}
        with ThreadPoolExecutor(min(len(hosts), AT_ONCE)) as pool:
            return dict(zip(hosts, pool.map(self._ask_one, hosts), strict=True))

    def _ask_one(self, host: str) -> Answer:
        folder = self.folder()
        asked = {"folder": str(folder.absolute()) if folder else None, "launch": self.launch, "host": host}
        lines = f"{json.dumps(forwarded_environment(os.environ))}\n{json.dumps(asked)}\n"
        options = ("-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}")
        remote = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(PROBE)}"
        try:
            process = subprocess.Popen(
                [*ssh_program(), *options, "--", host, remote],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=self.group.id,
            )
        except OSError:  # the block has ended, and its group with it
            return Answer(State.SILENT)
        until = time.monotonic() + ANSWER_SECONDS
        given: bytes | None = lines.encode()
        with process:
            while True:
                try:
                    output, errors = process.communicate(given, timeout=POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    given = None  # it is on its way
                    if time.monotonic() > until or self.over():
                        process.kill()
                        return Answer(State.SILENT, f"for {ANSWER_SECONDS:g} s")
                else:
                    return _answer(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


class Lookout:
    """Asks missing hosts every so often while the others work, in a thread; `found` is called when some are ready."""

    def __init__(
        self,
        launch: str,
        folder: Callable[[], Path | None],
        hosts: Sequence[str],
        seconds: float,
        found: Callable[[set[str]], bool],
    ):
        """
        Args:
            launch, folder: see `Probing`.
            seconds: between two questions.
            found: gets the hosts that are ready, and says whether that was all there was to look out for.
        """
        self.hosts, self.seconds, self.found = hosts, seconds, found
        self.over = threading.Event()
        self.probing = Probing(launch, folder, self.over.is_set)
        self.thread = threading.Thread(target=self._look, name="lookout", daemon=True)

    def __enter__(self) -> "Lookout":
        self.probing.__enter__()
        if self.hosts:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.hosts:
            self.thread.join()
        self.probing.__exit__()

    def _look(self) -> None:
        while not self.over.wait(self.seconds):
            ready = set[str]()
            with contextlib.suppress(BadInput, OSError):  # no reason to disturb the ranks
                answers = self.probing.ask(self.hosts)
                ready = {host for host, answer in answers.items() if answer.state is State.READY}
            if ready and not self.over.is_set() and self.found(ready):
                return


def _answer(code: int, output: str, errors: str) -> Answer:
    """What an ssh that has ended says of its host."""
    last = output.split()[-1:]  # a login script may write before it
    if code == 0 and last == [READY]:
        return Answer(State.READY)
    if code == 0 and last == [BUSY]:
        return Answer(State.BUSY)
    words = errors.strip().splitlines()[-1:]
    reason = words[0].strip() if words else "no message"
    return Answer(State.SILENT if code == SSH_FAILED or code < 0 else State.UNFIT, reason)
