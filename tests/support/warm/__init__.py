"""Python programs that start in a fraction of a second, as forks of a server that has imported what they need.

A program that imports torch, timm and DeepSpeed spends some six core-seconds on it, and tests start hundreds. In a
test process `subprocess.Popen` is the class below: a Python program that it starts is a fork of `support.warm.server`,
and so is each that this one starts in turn, such as the ranks of `fd-scale launch`.

Environment, working directory, the three streams, session and process group, signals and exit status are those of a
real start. What differs: the parent of every process is the server; what modules read from the environment when they
are imported, they read in the server; `sys.flags` are the server's; and a program ends after its exit functions,
without tearing down its modules. So tests of starting and of ending itself (launchers, ssh, import times, exit codes)
are marked `real_start`, and say why. `tests/support/test_warm.py` and `test_started_for_real_it_computes_the_same`
hold both ways to the same exit codes and losses.
"""

import contextlib
import fcntl
import inspect
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ADDRESS = "FD_SCALE_TEST_WARM"
"""Environment variable: the folder of the servers' sockets."""
STARTING_SECONDS = 180.0
PADDING = 8192  # room for the command in the process list, which only the environment can provide
LARGEST_MESSAGE = 2**17

ACCOUNT = "FD_SCALE_TEST_ACCOUNT"
"""Environment variable of a warm process: the test process on whose account it works."""
ROOT = "FD_SCALE_TEST_ROOT"
"""Environment variable: the root process of the test run, with which the servers end."""

RealPopen = subprocess.Popen
_real = False
_server: subprocess.Popen | None = None
"""Where this process started it."""


def program_of(command: Sequence[object], python: str = sys.executable) -> list[str] | None:
    """The words behind the interpreter and its flag -u; None for what a server cannot run."""
    words = [os.fsdecode(word) for word in command]  # type: ignore[call-overload]
    if not words or words[0] != python:
        return None
    rest = words[2:] if words[1:2] == ["-u"] else words[1:]
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-m", "-c")):
        return None
    return rest


def stack_of(program: Sequence[str]) -> str:
    """The server that has what a program imports: `downstream` has MMSegmentation and MMDetection as well."""
    return "downstream" if program[0] == "-m" and "downstream" in program[1] else "main"


class Popen(RealPopen):
    """A `subprocess.Popen` that forks Python programs off a server, and starts all else as it would be anyway."""

    _connection: socket.socket | None = None
    _stack = ""

    def _execute_child(self, *given: object) -> None:
        call = inspect.signature(super()._execute_child).bind(*given).arguments
        command = [call["args"]] if isinstance(call["args"], (str, bytes, os.PathLike)) else list(call["args"])
        plain = not call["shell"] and call["executable"] in (None, command[0])
        program = program_of(command) if plain and not _real else None
        if program is None:
            super()._execute_child(*given)
            return
        assert not call["pass_fds"], "a warm process inherits its three streams and nothing else"
        assert call["preexec_fn"] is None, "a warm process runs no preexec_fn"
        sys.audit("support.warm", command, call["env"])
        environment = dict(os.environ if call["env"] is None else call["env"])
        request = {
            "program": program,
            "command": [os.fsdecode(word) for word in command],
            "cwd": os.path.abspath(os.fsdecode(call["cwd"] or ".")),
            "environment": {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()},
            "account": os.environ.get(ACCOUNT, str(os.getpid())),
            "new_session": call["start_new_session"],
            "process_group": call["process_group"],
        }
        streams = (call["p2cread"], call["c2pwrite"], call["errwrite"])
        self._stack = stack_of(program)
        self._connection = connect(self._stack)
        socket.send_fds(
            self._connection,
            [json.dumps(request).encode()],
            [stream if stream >= 0 else number for number, stream in enumerate(streams)],
        )
        answer = json.loads(self._connection.recv(LARGEST_MESSAGE) or b'{"error": "the warm server has gone"}')
        self._close_pipe_fds(*(call[name] for name in PIPES))
        if "error" in answer:
            raise OSError(f"{command} was not started: {answer['error']}")
        self.pid = answer["pid"]
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self._connection is None:
            return super()._internal_poll(_deadstate)
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._receive_status()
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        if self._connection is None:
            return super()._wait(timeout)
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._receive_status()
        return self.returncode

    def _receive_status(self) -> None:
        assert self._connection is not None
        message = self._connection.recv(LARGEST_MESSAGE)
        if not message:
            raise RuntimeError(f"the warm server ended while {self.args} was running")
        answer = json.loads(message)
        sys.audit("support.warm.end", self._stack, answer["seconds"])
        self._handle_exitstatus(answer["status"])
        self._connection.close()


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def install() -> None:
    """From now on, Python programs that this process starts through `subprocess` start warm."""
    subprocess.Popen = Popen  # type: ignore[misc]


@contextlib.contextmanager
def real() -> Iterator[None]:
    """Inside, they start as they do for a user."""
    global _real
    before, _real = _real, True
    try:
        yield
    finally:
        _real = before


def connect(stack: str = "main") -> socket.socket:
    """A connection to a server, which is started first if there is none yet."""
    address = Path(os.environ[ADDRESS]) / f"{stack}.sock"
    address.with_suffix(".wanted").touch()
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            start_if_nobody_has()
            assert time.monotonic() < deadline, f"no warm server answered at {address}"
            time.sleep(0.05)
        else:
            return connection


def ask(question: str, stack: str = "main") -> dict:
    """What a server says of itself: `report` or `stop`."""
    with connect(stack) as connection:
        connection.send(json.dumps({"question": question}).encode())
        return json.loads(connection.recv(LARGEST_MESSAGE) or b"{}")


def start_if_nobody_has() -> None:
    """The first who comes starts the server; it ends when the root process of the test run does."""
    global _server
    folder = Path(os.environ[ADDRESS])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "started").exists():
            return
        (folder / "started").touch()
        environment = {
            **os.environ,
            "FD_SCALE_TEST_PADDING": "x" * PADDING,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
        }
        with open(folder / "log", "wb") as log:
            _server = RealPopen(
                [sys.executable, "-m", "support.warm.server", str(folder), os.environ[ROOT]],
                cwd=TESTS.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


TESTS = Path(__file__).resolve().parents[2]


def prepare(folder: Path) -> None:
    """For the root process of a test run: say to all test processes where the servers' sockets will be."""
    folder.mkdir()
    os.environ[ADDRESS] = str(folder)
    os.environ[ROOT] = str(os.getpid())


def stop() -> None:
    """For the root process: end the servers and all that still runs there; their core time becomes the root's."""
    if (Path(os.environ[ADDRESS]) / "started").exists():
        with contextlib.suppress(ConnectionError):
            ask("stop")
        if _server is not None:
            _server.wait()
