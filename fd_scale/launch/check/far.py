"""A host that is asked about itself: `probe` there, started over ssh by the same mechanism as ranks (`launch.hosts`).

The environment and the text of the probe go down standard input, so nothing of them is on a command line, and a host
without our package can answer as well. Without ssh the same program runs on this machine.
"""

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fd_scale.launch.environment import forwarded_environment
from fd_scale.launch.hosts import RECEIVER, SSH_FAILED, SSH_OPTIONS, ssh_program
from fd_scale.launch.ranks import Group

BOOT = "import json; exec(compile(json.loads(open(0, 'rb', 0, closefd=False).readline()), 'probe', 'exec'))"
"""Takes the text of the probe, and not a byte more. On one line, because some login shells take no others."""
MARK = "\x1e"
NO_PROGRAM = (126, 127)
"""What a shell ends with when there is no such program, or it cannot be run."""
START_SECONDS = 45.0
"""For ssh, which itself gives up after 20, and for a Python on slow storage."""


class Gone(Exception):
    """The host does not answer, or not any more; the text says why."""

    def __init__(self, reason: str, *, reached: bool):
        """`reached`: ssh itself has worked."""
        super().__init__(reason)
        self.reached = reached


class Failed(Exception):
    """The host has answered that it could not do what it was asked; the text says why."""


class Far:
    """One host. Each host may be asked from a thread of its own."""

    def __init__(self, host: str, slots: int, group: Group, *, remote: bool = True):
        self.host, self.slots = host, slots
        command = [*RECEIVER, sys.executable, "-c", BOOT]
        if remote:
            command = [*ssh_program(), *SSH_OPTIONS, "--", host, f"exec {shlex.join(command)}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=group.id
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors = b""
        self._gone: Gone | None = None
        self._readers = [self._reader(self._read_answers), self._reader(self._read_errors)]
        self._send(json.dumps(forwarded_environment(os.environ)))
        self._send(json.dumps((Path(__file__).with_name("probe.py")).read_text()))

    def ask(self, what: str, *, seconds: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """The answer of a function of `probe`.

        Raises:
            Gone: the host does not answer.
            Failed: it could not do it.
        """
        if self._gone:
            raise self._gone
        self._send(json.dumps([what, arguments]))
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._gone = Gone(f"no answer within {seconds:g} s", reached=False)
            raise self._gone from None
        if answer is None:
            self._gone = self._why_gone()
            raise self._gone
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["answer"]

    def _why_gone(self) -> Gone:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        for reader in self._readers:
            reader.join(5.0)
        code, lines = self.process.poll(), self._errors.decode(errors="replace").strip().splitlines()
        reason = lines[-1].strip() if lines else f"no message, exit code {code}"
        return Gone(reason, reached=code is not None and code not in (SSH_FAILED, 0))

    def no_program(self) -> bool:
        """Whether the shell there has found no Python where ours is."""
        return self.process.poll() in NO_PROGRAM

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def _reader(self, read: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _read_answers(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            _, mark, answer = line.decode(errors="replace").partition(MARK)
            if mark:
                self._answers.put(json.loads(answer))
        self._answers.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors = (self._errors + line)[-3000:]


def source_of(name: str) -> str:
    """Text of a program beside this one."""
    return Path(__file__).with_name(f"{name}.py").read_text()


def names_of(hosts: Sequence[Far]) -> str:
    return ", ".join(host.host for host in hosts)
