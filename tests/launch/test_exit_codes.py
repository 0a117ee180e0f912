"""What a user sees of the end of the ranks of one machine: one code, one line."""

import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from launching import PROGRAM, finish

from fd_scale.errors import BadInput
from fd_scale.launch import environment, launch

pytestmark = pytest.mark.real_start  # how real processes end is the question


@pytest.mark.parametrize(
    ("endings", "code", "line"),
    [
        (["0", "0"], 0, ""),
        (["wait", "bad"], 2, "fd-scale: rank 1 dislikes its input\n"),
        (["bad", "wait"], 2, "fd-scale: rank 0 dislikes its input\n"),
        (["retry", "wait"], 75, "fd-scale: rank 0 lost its storage\n"),
    ],
)
def test_expected_end_of_a_rank_is_one_line_and_its_code(launcher, endings, code, line):
    assert launcher.run("launch", "--nproc", "2", "--", "end_as", *endings) == (code, "", line)


def test_first_failure_by_time_wins(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "3", "--", "end_as", "wait", "late_bad", "retry")
    assert (code, errors) == (75, "fd-scale: rank 2 lost its storage\n")


def test_rank_that_lost_its_peer_yields_to_the_failure_that_explains_it(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "lost_peer", "late_bad")
    assert (code, errors) == (2, "fd-scale: rank 1 dislikes its input later\n")


def test_bug_shows_its_traceback_and_then_one_line(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", "bug")
    assert code == 1
    assert "Traceback (most recent call last)" in errors
    assert errors.count("fd-scale:") == 1
    last_line = errors.splitlines()[-1]
    assert last_line.startswith("fd-scale: rank 1")
    log = Path(last_line.partition("whole log is ")[2].partition(" on ")[0])
    assert "an assumption that does not hold" in log.read_text()


def test_bug_of_rank_zero_shows_its_traceback_once(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "bug", "wait")
    assert code == 1
    assert errors.count("Traceback") == errors.count("fd-scale:") == 1


def test_rank_that_is_stopped_by_a_signal_says_so(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", f"signal{signal.SIGTERM}")
    assert code == 75
    line = f"fd-scale: rank 1 ({socket.gethostname()}) was stopped by SIGTERM before it was done; start"
    assert errors.splitlines()[-1].startswith(line)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 75), (signal.SIGSEGV, 1)])
def test_rank_killed_by_a_signal_is_named(launcher, number, code):
    returned, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", f"signal{number}")
    assert returned == code
    last_line = errors.splitlines()[-1]
    assert last_line.startswith(f"fd-scale: rank 1 ({socket.gethostname()}) was killed by signal {number}")
    assert ("start the same command again" in last_line) == (code == 75)
    assert "rank 1 is at step 7" in errors  # what it said last


def test_error_of_the_option_parser_keeps_its_code(launcher):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", "argparse")
    assert code == 2
    assert "unrecognized arguments: --unknown" in errors


def test_rank_zero_alone_writes_to_the_users_terminal(launcher):
    code, output, errors = launcher.run("launch", "--nproc", "2", "--", "say", "hello")
    assert (code, output, errors) == (0, "hello\n", "")


def test_closed_standard_output_ends_without_noise(launcher):
    process = launcher.start("say", *["much"] * 5)
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_ranks_find_the_environment_of_torchrun(launcher, tmp_path):
    launcher.environment["HF_TOKEN"] = "inherited on this machine"
    assert launcher.run("launch", "--nproc", "2", "--", "environment", tmp_path)[0] == 0
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in range(2):
        assert launcher.read(f"environment_{rank}").splitlines() == [
            f"RANK={rank}",
            f"LOCAL_RANK={rank}",
            "WORLD_SIZE=2",
            "LOCAL_WORLD_SIZE=2",
            "MASTER_ADDR=127.0.0.1",
            f"OMP_NUM_THREADS={threads}",
            f"FD_SCALE_NOTE={tmp_path}",
            "HF_TOKEN=inherited on this machine",
        ]


def test_secret_words_reach_ranks_and_stand_in_no_arguments_but_the_users(launcher, tmp_path):
    words = ["run.mlflow=http://user:hunter2Pass@host/?token=hunter2Query", "--token", "hunter2Word", "x=1"]
    process = launcher.start("launch", "--nproc", "2", "--", "look", tmp_path, "hunter2", *words)
    assert finish(process) == (0, "", "")
    for rank in range(2):
        seen = json.loads(launcher.read(f"seen_{rank}"))
        assert seen["words"] == words
        assert set(seen["processes"]) == {process.pid}
        assert seen["arguments"] == ["run.mlflow=http://user:***@host/?token=***", "--token", "***", "x=1"]


def test_traceback_and_line_of_a_bug_hold_no_secret(launcher):
    word = "bug http://user:hunter2Pass@host/a"
    code, output, errors = launcher.run("launch", "--nproc", "2", "--", "end_as", "wait", word)
    assert code == 1
    assert "hunter2" not in output + errors
    assert errors.count("KeyError: 'http://user:***@host/a'") == 2
    assert "hunter2" not in "".join(log.read_text() for log in launcher.folder.rglob("*.log"))


def test_thread_count_of_the_user_stays(launcher, tmp_path):
    launcher.environment["OMP_NUM_THREADS"] = "7"
    assert launcher.run("launch", "--nproc", "1", "--", "environment", tmp_path)[0] == 0
    assert "OMP_NUM_THREADS=7" in launcher.read("environment_0")


def test_port_in_use_is_refused_before_anything_starts(launcher, tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, errors = launcher.run(
            "launch", "--nproc", "1", "--master-port", str(port), "--", "environment", tmp_path
        )
    assert code == 2
    assert f"port {port}" in errors
    assert not launcher.has("environment_0")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"command": []}, "needs a verb"),
        ({"command": ["say"], "nproc": 0}, "nproc=0"),
        ({"command": ["say"], "nproc": 2, "hostfile": Path("hosts")}, "--nproc 2"),
        ({"command": ["say"], "master_port": 70000}, "70000"),
    ],
)
def test_contradictory_options_are_refused_by_name(arguments, named):
    with pytest.raises(BadInput, match=named):
        launch(**arguments)


def test_function_returns_the_code_and_restores_the_signal_handlers():
    before = signal.getsignal(signal.SIGTERM)
    assert launch(["end_as", "75"], nproc=1, program=(sys.executable, str(PROGRAM))) == 75
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("visible", "count"), [("0,1,3", 3), ("", 1), ("-1", 1), ("2,-1,3", 1), ("GPU-1234", 1)])
def test_one_rank_a_visible_gpu_and_one_without(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.default_nproc() == count


def test_all_gpus_count_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(environment, "NVIDIA_GPUS", tmp_path / "gpus")
    assert environment.default_nproc() == 1
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert environment.default_nproc() == 2


def test_launcher_does_not_import_torch():
    code = "import sys, fd_scale.launch, fd_scale.exits; sys.exit('torch' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


def test_ranks_meet_and_kill_9_of_one_in_a_collective_ends_all_with_75(launcher, tmp_path):
    code, _, errors = launcher.run("launch", "--nproc", "2", "--", "lose_peer", tmp_path)
    assert [launcher.read(f"sum_{rank}") for rank in range(2)] == ["3.0", "3.0"]
    assert code == 75
    assert errors.startswith("fd-scale: rank 1 ")
    assert errors.count("\n") == 1


def test_free_port_is_free():
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", environment.free_port())) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("ssh", "line"),
    [
        (
            "true",
            "host localhost (rank 0): FD_SCALE_SSH=true ended well without having started the launcher there",
        ),
        ("echo begun", "FD_SCALE_SSH=echo begun ended well"),
        ("", "FD_SCALE_SSH='': there is no such program; give for example 'ssh -p 2222'"),
        ("'", "No closing quotation"),
        ("/nowhere/ssh -p 1", "there is no such program"),
        ("/etc", "there is no such program"),
        ("false", "host localhost (rank 0): the launcher there ended with exit code 1"),
    ],
)
def test_a_command_that_is_no_ssh_never_counts_as_done(launcher, tmp_path, ssh, line):
    launcher.environment["FD_SCALE_SSH"] = ssh
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    code, _, errors = launcher.run("launch", "--hostfile", tmp_path / "hosts", "--", "all_reduce", tmp_path)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert errors.startswith("fd-scale: ")
    assert line in errors


def test_an_order_between_launchers_that_is_none(launcher):
    for text in ("{", "[]", "{}", "[" * 99_999):
        code, _, errors = launcher.run("launch", "--node", text, "--", "all_reduce", "x")
        assert (code, errors.count("\n")) == (2, 1)
        assert errors.startswith("fd-scale: --node is for one launcher to another, and this is no node")
