"""The ranks of other machines: one ssh a host, which runs this launcher there for its share of the ranks.

The environment goes down ssh's standard input as the first line, because everyone can read a command line, here and
there. Orders follow it as the lines "terminate" and "kill", and signs of life (`launch.heartbeat`). Its end or silence
tells the launcher at the other end that we or the connection are gone, so that nothing is orphaned there. What comes up
ssh's standard error behind a mark is for us, one line each: that the launcher there has begun, an answer to each sign
of life, and a failure, as JSON, the moment that it is known. All else there is output for people. A command that ends
well and never began a launcher (FD_SCALE_SSH=true) ran nothing.
Leaves out: copying anything. Folder, Python and data must have the same paths on every host.
"""

import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fd_scale.errors import EXIT_BAD_INPUT, EXIT_RETRY, BadInput
from fd_scale.exits import START_AGAIN, Failure
from fd_scale.launch.environment import Node, forwarded_environment
from fd_scale.launch.heartbeat import ALIVE, EVERY_SECONDS, LIMIT, Silence, ssh_options
from fd_scale.launch.ranks import TAIL_BYTES, Group
from fd_scale.launch.words import for_ranks

SSH = "FD_SCALE_SSH"
BEGUN = b"begun"
MARK = b"\x1e"  # ASCII's record separator: no program writes it by accident
SSH_FAILED = 255
UNREAD_SECONDS = 2.0  # for a pipe that is full because the connection is cut
DRAIN_SECONDS = 5.0  # for what is still in the pipe of an ssh that has ended
# Takes the environment and becomes the launcher, which finds PYTHONPATH in it. Reads not a byte more than the line, and
# is on one line itself, because some login shells take no quoted line breaks.
RECEIVER = (
    sys.executable,
    "-I",
    "-c",
    'import json, os, sys; os.environ.update(json.loads(open(0, "rb", 0, closefd=False).readline())); '
    "os.execvp(sys.argv[1], sys.argv[1:])",
)
SSH_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20")  # no questions


class Host:
    """The ranks of one host; a `watch.Child`. The first host's output is ours, of the others only failures matter."""

    def __init__(self, node: Node, program: Sequence[str], command: Sequence[str], group: Group, lost_after: float):
        self.node = node
        self.is_first = node.first_rank == 0
        self.begun = False
        self.silence = Silence(lost_after)
        self.is_silent = False
        self.reported: Failure | None = None
        self.ended_at = 0.0
        self.tail = b""
        words, secrets = for_ranks(command)
        self.process = subprocess.Popen(
            [
                *(*ssh_program(), *SSH_OPTIONS, *ssh_options(lost_after)),
                *("--", node.host, remote_command(node, program, words)),
            ],
            stdin=subprocess.PIPE,
            stdout=None if self.is_first else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=group.id,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self._send(json.dumps({**forwarded_environment(os.environ), **secrets}).encode() + b"\n")
        self._send(LIMIT + f"{lost_after:g}\n".encode())

    @property
    def input(self) -> int:
        """File descriptor, for signs of life."""
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    def running(self) -> bool:
        if self.begun and not self.is_silent and self.silence.is_over_limit() and self.process.poll() is None:
            self.is_silent = True
            self.process.kill()  # nothing that we say arrives
            self.ended_at = time.time()
        return not self.is_silent and self.process.poll() is None

    def failure(self) -> Failure | None:
        if self.is_silent:
            line = f"{self.silent_for()}: the host or its network is gone; {START_AGAIN}"
            return self.reported or Failure(EXIT_RETRY, line, self.ended_at)
        code = self.process.poll()
        if code is not None:
            self.reader.join(DRAIN_SECONDS)  # the report may be in the pipe still
            self.ended_at = self.ended_at or time.time()
        if self.reported or code is None or (code == 0 and self.begun):
            return self.reported
        name, last_words = self._name(), self.tail.decode(errors="replace").strip().splitlines()[-1:]
        reason = last_words[0] if last_words else "no message"
        if code == 0:
            line = f"{name}: {SSH}={shlex.join(ssh_program())} ended well without having started the launcher there"
            return Failure(EXIT_BAD_INPUT, f"{line}; give a command that takes ssh's arguments", self.ended_at)
        if code == SSH_FAILED:
            line = (
                f"{name}: ssh failed or lost the connection: {reason}; check 'ssh {self.node.host} true', {START_AGAIN}"
            )
            return Failure(EXIT_RETRY, line, self.ended_at)
        line = (
            f"{name}: the launcher there ended with exit code {code}: {reason}; "
            "the working folder and Python must have the same paths on every host"
        )
        return Failure(EXIT_BAD_INPUT, line, self.ended_at)

    def silent_for(self) -> str:
        """Words about the silence of this host, where two signs of life are missing; otherwise nothing."""
        seconds = self.silence.seconds
        return f"{self._name()} has been silent for {seconds:.0f} s" if seconds >= 2 * EVERY_SECONDS else ""

    def _name(self) -> str:
        first, last = self.node.first_rank, self.node.first_rank + self.node.nproc - 1
        return f"host {self.node.host} ({f'rank {first}' if first == last else f'ranks {first} to {last}'})"

    def terminate(self) -> None:
        self._send(b"terminate\n")

    def kill(self) -> None:
        self._send(b"kill\n")

    def _send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stderr is not None
        unread = b""
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            self.silence.heard()
            text, *marked = (unread + chunk).split(MARK)
            self._output(text)
            unread = b""
            for piece in marked:
                report, end, text = piece.partition(b"\n")
                if end:
                    self._hear(report)
                    self._output(text)
                else:
                    unread = MARK + piece

    def _hear(self, report: bytes) -> None:
        self.begun = True
        if report not in (BEGUN, ALIVE):
            # The clocks of two hosts differ, so what counts is when we hear of it.
            self.reported = Failure(**{**json.loads(report), "time": time.time()})

    def _output(self, text: bytes) -> None:
        self.tail = (self.tail + text)[-TAIL_BYTES:]
        if self.is_first and text:
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()


def report_upwards(report: Failure | bytes) -> None:
    """The other end of `Host._read`: one write, so that no output of rank 0 falls into it.

    `report`: a failure, or that the launcher has begun or is alive. It is left out where nobody reads any more, because
    this launcher has ranks to end.
    """
    line = report if isinstance(report, bytes) else report.to_json().encode()
    if select.select([], [sys.stderr.fileno()], [], UNREAD_SECONDS)[1]:
        os.write(sys.stderr.fileno(), MARK + line + b"\n")


def ssh_program() -> list[str]:
    """Words of the ssh command that FD_SCALE_SSH names. Raises BadInput: there is no such program."""
    given = os.environ.get(SSH, "ssh")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise BadInput(f"{SSH}={given!r} is no command: {error}; give for example 'ssh -p 2222'") from None
    if not words or shutil.which(words[0]) is None:
        raise BadInput(f"{SSH}={given!r}: there is no such program; give for example 'ssh -p 2222'")
    return words


def remote_command(node: Node, program: Sequence[str], command: Sequence[str]) -> str:
    """One line for the login shell at the other end, in which only `cd` and `exec` are not quoted."""
    inner = [*RECEIVER, *program, "launch", "--node", json.dumps(asdict(node)), "--", *command]
    return f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(inner)}"
