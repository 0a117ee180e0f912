"""Signals reach the ranks once, and no end of the launcher leaves a process behind."""

import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from launching import PROGRAM, finish, wait_until

pytestmark = pytest.mark.real_start  # process groups and orphans of the launcher are the question


def start_training(launcher, *options: str):
    process = launcher.start("launch", "--nproc", "2", "--", "train", launcher.folder, *options)
    wait_until(lambda: launcher.has("running_0", "running_1"))
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_forwarded_as_sigterm_and_a_saved_end_is_zero(launcher, number):
    process = start_training(launcher)
    process.send_signal(number)
    assert finish(process) == (0, "", "")
    assert [launcher.read(f"saved_{rank}") for rank in range(2)] == ["SIGTERM", "SIGTERM"]


def test_second_signal_kills_and_returns_75(launcher):
    process = start_training(launcher, "stubborn", "grandchild")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 75
    assert errors.count("\n") == 1
    assert "start the same command again" in errors
    assert not launcher.has("saved_0")
    assert not launcher.has("saved_1")


def test_rank_stopped_before_it_could_save_is_no_success(launcher):
    process = launcher.start("launch", "--nproc", "2", "--", "end_as", "wait", "wait")
    wait_until(lambda: len(launcher.processes()) >= 4)  # launcher, keeper, two ranks
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 75
    assert "before it could save" in errors


def test_kill_9_of_the_launcher_leaves_no_process(launcher):
    process = start_training(launcher, "stubborn", "grandchild")
    assert len(launcher.processes()) == 6  # launcher, keeper, two ranks, two grandchildren
    process.kill()
    process.communicate()
    wait_until(lambda: not launcher.processes(), seconds=5)
    assert not launcher.has("saved_0")


def test_kill_9_of_a_rank_ends_the_others_and_their_grandchildren(launcher):
    process = start_training(launcher, "grandchild")
    os.kill(int(launcher.read("running_1")), signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 75
    assert errors.startswith("fd-scale: rank 1 ")
    assert not launcher.processes()
    assert launcher.read("saved_0") == "SIGTERM"


def test_ctrl_c_on_a_terminal_reaches_the_launcher_alone(launcher):
    child, terminal = pty.fork()
    if child == 0:
        arguments = ["launch", "--nproc", "2", "--", "train", str(launcher.folder)]
        os.execve(sys.executable, [sys.executable, str(PROGRAM), *arguments], launcher.environment)
    wait_until(lambda: launcher.has("running_0", "running_1"))
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [launcher.read(f"saved_{rank}") for rank in range(2)] == ["SIGTERM", "SIGTERM"]


def test_success_leaves_no_temporary_folder(launcher, tmp_path):
    temporary = Path(tmp_path, "temporary")
    temporary.mkdir()
    launcher.environment["TMPDIR"] = str(temporary)
    assert launcher.run("launch", "--nproc", "2", "--", "say", "hello")[0] == 0
    assert launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", "bad")[0] == 2
    assert list(temporary.iterdir()) == []
