"""SIGTERM and SIGHUP before a loop listens for them: one line and 75, at once, whatever the process is doing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.helpers import REPOSITORY

from fd_scale.stops.preemption import StopRequest

pytestmark = pytest.mark.real_start  # what a process does with its signals, which the warm server sets up otherwise
PROGRAM = """
import os, signal, socket, sys, time
from fd_scale.exits import run_to_exit_code

def work():
    {body}

sys.exit(run_to_exit_code(work))
"""
BODIES = {
    "Python": "print('ready', flush=True); time.sleep(60)",
    # Native code that waits and gives the interpreter no turn, as a rendezvous does.
    "native code": "import ctypes; sleep = ctypes.CDLL(None).sleep; print('ready', flush=True)\n"
    "    while True: sleep(60)",
    "an exception handler": "print('ready', flush=True)\n    while True:\n        try: time.sleep(60)\n"
    "        except Exception: pass",
}


def start(body: str, **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for name in ("RANK", "FD_SCALE_ERROR_FOLDER"):
        environment.pop(name, None)
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("doing", BODIES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_75_and_one_line(doing, number):
    process = start(BODIES[doing])
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert process.returncode == 75
    line = f"fd-scale: {socket.gethostname()} was stopped by {number.name} before it was done; "
    assert errors.startswith(line), errors
    assert errors.count("\n") == 1


def test_a_signal_to_a_fork_is_not_heard_by_its_parent():
    body = """print('ready', flush=True)
    for _ in range(30):
        child = os.fork()
        if child == 0:
            time.sleep(60)
        os.kill(child, signal.SIGTERM)  # which may not have run one instruction yet
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == -signal.SIGTERM, status
    return 0"""
    process = start(body)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_it_does_not_wait_for_a_fork_that_goes_on():
    """As a data worker does, which has the same pipes open; the program's own end ends such workers."""
    body = """child = os.fork()
    if child == 0:
        for stream in (0, 1, 2):
            os.close(stream)
        time.sleep(60)
        os._exit(0)
    print('ready', flush=True)
    return 0"""
    process = start(body, start_new_session=True)
    try:
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_signal_to_a_fork_that_the_loop_has_made_is_its_own():
    """The parent has taken the signals for itself by then; a fork that takes them too hears them alone."""
    body = """from fd_scale.stops.preemption import StopRequest
    request = StopRequest()
    print('ready', flush=True)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        print('child', flush=True)
        time.sleep(60)
    time.sleep(1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not request.asked
    return 0"""
    process = start(body)
    assert process.communicate(timeout=30) == ("child\n", "")
    assert process.returncode == 0


def test_under_nohup_a_hangup_is_ignored():
    body = "print('ready', flush=True); os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.3); return 0"
    process = start(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


@pytest.fixture
def handlers() -> Iterator[None]:
    """As they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_loop_takes_the_signals_over(handlers, number):
    request = StopRequest()
    assert not request.asked
    signal.raise_signal(number)
    assert request.asked


def test_a_loop_under_nohup_ignores_a_hangup(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request = StopRequest()
    signal.raise_signal(signal.SIGHUP)
    assert not request.asked
