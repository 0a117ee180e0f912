"""Signs of life between launchers; `cluster/test_ssh.py` takes out the cable."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from launching import PROGRAM

from fd_scale.errors import BadInput
from fd_scale.launch import launch
from fd_scale.launch.environment import Node, free_port
from fd_scale.launch.heartbeat import Silence
from fd_scale.launch.watch import KILL, STOP, Orders


class Clock:
    """For `heartbeat.time` and `watch.time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fd_scale.launch.heartbeat.time", clock)
    monkeypatch.setattr("fd_scale.launch.watch.time", clock)
    return clock


def test_silence_is_counted_from_the_last_sign_and_not_while_suspended(clock):
    silence = Silence(10)

    def wait(seconds: float) -> bool:
        for _ in range(round(seconds * 4)):
            clock.now += 0.25
            over = silence.is_over_limit()
        return over

    assert not wait(9)
    silence.heard()
    assert not wait(9.5)
    clock.now += 3600  # this process, or the machine, was suspended
    assert silence.is_over_limit()  # one second at most is counted for it, and ten are over
    silence.heard()
    clock.now += 3600
    assert not silence.is_over_limit()
    assert not wait(8.5)
    assert wait(2)


@contextlib.contextmanager
def far_end() -> Iterator[tuple[Orders, int, list[str]]]:
    """Orders that come down a pipe, the end to write to, and the answers."""
    control, theirs = os.pipe()
    answers: list[str] = []
    try:
        yield Orders(20, control, answer=lambda: answers.append("alive")), theirs, answers
    finally:
        os.close(control)
        os.close(theirs)


def test_the_far_end_takes_silence_for_the_end_of_the_connection(clock):
    with far_end() as (orders, theirs, answers):

        def pass_by(seconds: int) -> int:
            for _ in range(seconds):
                clock.now += 1
                orders.wait(0)
            return orders.level

        assert pass_by(1000) == 0  # not told what is too long, as by a launcher that gives no signs of life
        os.write(theirs, b"lost after 10\n")
        assert pass_by(10) == 0
        os.write(theirs, b"alive\nal")
        assert pass_by(10) == 0
        os.write(theirs, b"ive\n")
        assert pass_by(10) == 0
        assert answers == ["alive", "alive"]
        assert pass_by(1) == STOP
        os.write(theirs, b"alive\n")  # too late: the other end has given this host up as well
        assert pass_by(20) == STOP
        assert pass_by(1) == KILL
        assert answers == ["alive", "alive"]


def test_no_line_but_an_order_is_an_order(clock):
    with far_end() as (orders, theirs, _):
        for line in (b"alive", b"", b"lost after a while", b"\xff", b"lost after"):
            os.write(theirs, line + b"\n")
            orders.wait(0)
            assert orders.level == 0
        os.write(theirs, b"alive\nterminate\n")
        orders.wait(0)
        assert orders.level == STOP


@pytest.mark.parametrize("seconds", [9, 3601, float("nan"), -1])
def test_a_silence_that_no_network_needs_is_refused(seconds):
    with pytest.raises(BadInput, match=r"^lost_after=.*: give a number from 10 to 3600"):
        launch(["say"], lost_after=seconds)


@pytest.mark.real_start
def test_a_far_end_that_hears_no_more_lets_its_ranks_save(launcher):
    """How a launcher ends that is connected still is the question."""
    node = json.dumps(asdict(Node("here", 1, 0, 1, "127.0.0.1", free_port())))
    words = [sys.executable, PROGRAM, "launch", "--node", node, "--", "train", launcher.folder]
    with subprocess.Popen(words, env=launcher.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as far:
        far.stdin.write(b"lost after 0.5\n")
        far.stdin.flush()
        assert far.wait(timeout=60) in (0, 75)
        errors = far.stderr.read()
    assert errors.startswith(b"\x1ebegun\n")
    assert far.returncode == 0 or b"before it could save" in errors


SUSPENDED = """
import os, signal, sys
from fd_scale.launch import heartbeat
heartbeat.EVERY_SECONDS = 0.05
with heartbeat.pulse([int(sys.argv[1])], 0):
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.real_start
def test_hosts_of_a_suspended_launcher_hear_from_it(launcher):
    """Suspension is the question."""
    read, write = os.pipe()
    words = [sys.executable, "-c", SUSPENDED, str(write)]
    with subprocess.Popen(words, env=launcher.environment, pass_fds=[write]) as suspended:
        os.waitid(os.P_PID, suspended.pid, os.WSTOPPED)
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError):
            os.read(read, 2**16)  # what came before
        os.set_blocking(read, True)
        assert os.read(read, 6) == b"alive\n"
        os.close(read)  # which ends the signs of life
        os.close(write)
        suspended.send_signal(signal.SIGCONT)
    assert suspended.returncode == 0
