"""`fd-scale status`: runs that train, that have ended, and folders that are no runs."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tasks.running import FD_SCALE, copied, distilled

from fd_scale.errors import BadInput, Retry
from fd_scale.exits import LostPeer
from fd_scale.lease import Lease
from fd_scale.lease.holder import this_process
from fd_scale.train.run_folder import RunFolder
from fd_scale.verbs.status import status
from fd_scale.watching.failure import failure_logged
from fd_scale.watching.record import RunStatus
from fd_scale.watching.state import run_state
from fd_scale.watching.words import duration, in_words


@pytest.fixture
def finished(shards, teacher_file) -> Path:
    """The run that many tests share: eight steps on two ranks. It must not be changed."""
    return distilled(shards, teacher_file)[0]


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy, to be changed."""
    return copied(finished, tmp_path / "run")


def test_a_finished_run_says_what_it_came_to(finished):
    (state,) = status([str(finished)])
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert (state.state, state.step, state.steps, state.starts) == ("complete", 8, 8, 1)
    assert {"step": 8, **state.values} == last
    assert state.checkpoint.step == 8
    assert list(state.hosts.values()) == [[0, 1]]
    assert state.slowest.rank in (0, 1)
    assert state.slowest.ratio >= 1
    assert state.failure is None
    assert state.seconds_left is None


def test_words_and_json_of_several_runs_come_from_the_command_line(finished, run):
    done = subprocess.run([*FD_SCALE, "status", str(finished), str(run)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    blocks = done.stdout.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [str(finished), str(run)]
    assert "step        8 of 8 (100 %)" in done.stdout
    assert "ranks 0 to 1" in done.stdout
    done = subprocess.run([*FD_SCALE, "status", str(run), "--json"], capture_output=True, text=True)
    (state,) = json.loads(done.stdout)
    assert (state["folder"], state["state"], state["step"]) == (str(run), "complete", 8)


@pytest.mark.real_start
def test_looking_at_a_run_imports_no_torch(finished):
    """A real start, because what it imports is the question."""
    code = "import sys; from fd_scale.verbs.status import status; status([sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_run_of_an_older_version_has_no_status_file_and_is_shown(run):
    (run / "status.json").unlink()
    (state,) = status([str(run)])
    assert (state.state, state.step, state.hosts, state.slowest) == ("complete", 8, {}, None)
    assert "hosts" not in in_words(state)


def test_a_line_that_is_being_written_is_not_damage(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert status([str(run)])[0].step == 8


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "run: [\n"),
        ("config.yaml", "just words"),
        ("metrics.jsonl", '{"step": 1}\nnonsense\n'),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("environment.json", "{}"),
        ("environment.json", "[" * 100_000),
        ("status.json", '{"format": 1}'),
        ("status.json", "[]"),
        ("status.json", ""),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(run, file, content):
    (run / file).write_text(content)
    with pytest.raises(BadInput, match=rf"{run / file} is damaged"):
        status([str(run)])


def test_a_folder_that_is_no_run_is_one_line_and_2(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, reason in (("none", "does not exist"), ("file", "is a file"), ("empty", "holds no config.yaml")):
        done = subprocess.run([*FD_SCALE, "status", str(tmp_path / name)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("fd-scale: ")
        assert done.stderr.count("\n") == 1
        assert reason in done.stderr
    for given in ({"folders": []}, {"json": True, "logs": True}, {"last": 3}):
        with pytest.raises(BadInput):
            status(**{"folders": ["x"], **given})


def elsewhere(run: Path, **changes) -> None:
    """A lease that a process on another host holds, of which nothing can be seen but its file."""
    holder = this_process()
    content = json.loads(holder.to_bytes()) | {"host": "node7", "boot_id": "another", **changes}
    (run / "lease.json").write_text(json.dumps(content))


def test_a_run_lives_while_its_lease_is_renewed(run):
    lease = Lease(run / "lease.json", "the run")
    assert lease.take()
    try:
        assert status([str(run)])[0].state == "running"
    finally:
        lease.release()
    elsewhere(run)
    state = run_state(run)
    assert state.state == "running"
    assert "node7" in state.alive


def test_an_old_lease_is_looked_at_until_it_changes_or_the_time_is_over(run):
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    elsewhere(run)
    os.utime(run / "lease.json", (1e9, 1e9))  # or the clock of the other host is wrong
    said: list[str] = []
    state = run_state(run, look_seconds=0.3, say=said.append)
    assert (state.state, len(said)) == ("ended", 1)
    assert "gives no sign of life" in state.alive

    def renew() -> None:
        time.sleep(0.3)
        elsewhere(run, token="another")
        os.utime(run / "lease.json", (1e9, 1e9))

    renewing = threading.Thread(target=renew)
    renewing.start()
    state = run_state(run, look_seconds=60)
    renewing.join()
    assert state.state == "running"


def test_a_dead_holder_is_known_at_once(run):
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    with subprocess.Popen(["true"]) as process:
        process.wait()
        holder = json.loads(this_process().to_bytes()) | {"pid": process.pid}
    (run / "lease.json").write_text(json.dumps(holder))
    state = run_state(run)
    assert state.state == "ended"
    assert "has died" in in_words(state)


def fail(run: Path, rank: int, error: Exception) -> None:
    """End a start as a rank does."""
    log = logging.getLogger("fd_scale")
    RunFolder(run).open_log(rank)
    handler = log.handlers[-1]
    try:
        with pytest.raises(type(error)), failure_logged():
            raise error
    finally:
        log.removeHandler(handler)
        handler.close()


def test_the_last_failure_is_that_of_the_rank_whose_own_it_was(run):
    fail(run, 0, BadInput("an older one"))
    fail(run, 1, Retry("the storage does not answer"))
    fail(run, 0, LostPeer("rank 0 lost its peers: Connection closed by peer"))
    failure = status([str(run)])[0].failure
    assert (failure.rank, failure.line) == (1, "exit code 75: the storage does not answer")
    fail(run, 0, KeyError("a bug"))
    failure = status([str(run)])[0].failure
    assert failure.line.startswith("exit code 1: KeyError")
    assert "exit code 1" in in_words(status([str(run)])[0])


def test_the_watchdogs_stacks_are_a_failure(run):
    (run / "logs" / "rank_00001.stacks").write_text("Thread 0x1\n")
    failure = status([str(run)])[0].failure
    assert (failure.rank, "watchdog" in failure.line) == (1, True)


def test_time_left_and_the_slowest_rank_are_those_of_the_last_log(tmp_path):
    status = RunStatus(tmp_path, steps=100, first_step=0, global_batch=8, starts=3, rank_hosts=["a", "a", "b", "b"])
    assert (status.seconds_left(), status.slowest_ratio()) == (None, None)
    status.advance(20)
    status.log({"images_per_second": 4.0, "loss": 1.0}, [1.0, 1.1, 3.0, 1.0], (10, time.time()))
    assert status.seconds_left() == 80 * 8 / 4
    assert status.slowest_ratio() == 3.0
    status.write()
    (tmp_path / "config.yaml").write_text("run: {folder: x}\n")
    elsewhere(tmp_path)
    state = run_state(tmp_path)
    assert (state.state, state.step, state.seconds_left) == ("running", 20, 160.0)
    assert (state.slowest.rank, state.slowest.host) == (2, "b")
    assert (state.checkpoint.step, state.hosts) == (10, {"a": [0, 1], "b": [2, 3]})
    assert "slowest     rank 2 on b, 3.00 times the median" in in_words(state)
    status.log({"images_per_second": 4.0}, [1.0, 1.1, 1.05, 1.0], None)
    status.write()
    assert "none stands out" in in_words(run_state(tmp_path))


def test_durations_are_in_two_units():
    assert [duration(seconds) for seconds in (4.4, 61, 3 * 3600 + 120, 90000)] == [
        "4 s",
        "1 min 1 s",
        "3 h 2 min",
        "1 d 1 h",
    ]
