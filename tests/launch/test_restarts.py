"""`launch --restarts N` on one machine: what is started again, how often, and what is not."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from launching import finish, wait_until

from fd_scale.errors import BadInput
from fd_scale.exits import Failure
from fd_scale.launch import launch
from fd_scale.launch.elastic import Again, Work, rounds, starting_again
from fd_scale.launch.elastic.quiet_lease import wait_until_quiet
from fd_scale.launch.environment import Node
from fd_scale.launch.watch import Orders
from fd_scale.lease import Lease

LOST = Failure(75, "rank 1 lost its peers; start the same command again to resume", 0.0)


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Rounds that end in turn with the given exit codes, and what they came to. A code of 175 is 75 with a checkpoint
    that was saved before."""
    monkeypatch.setattr(rounds, "FIRST_WAIT", 0.001)

    def play(restarts: int, codes: list[int]) -> tuple[Failure | None, int]:
        left, saved = list(codes), []

        def attempt(slots, orders) -> Failure | None:
            code = left.pop(0)
            if code > 100:
                saved.append(code)
            return Failure(code % 100, LOST.line, 0.0) if code else None

        again = Again(restarts, Work(8, 4, tmp_path, lambda: len(saved)))
        with Orders(1.0) as orders:
            failure = rounds.Rounds(attempt, None, again, orders).run()
        return failure, len(codes) - len(left)

    return play


def test_75_is_started_again_until_all_is_done(play):
    assert play(2, [75, 75, 0]) == (None, 3)


@pytest.mark.parametrize("code", [1, 2])
def test_what_a_restart_cannot_cure_is_never_repeated(play, code):
    failure, started = play(5, [75, code, 0])
    assert (failure.exit_code, started) == (code, 2)


def test_restarts_in_vain_are_given_up(play):
    failure, started = play(2, [75, 75, 75, 0])
    assert (failure.exit_code, started) == (75, 3)
    assert failure.line.startswith("rank 1 lost its peers; gave up after 2 restarts without a new checkpoint")


def test_a_new_checkpoint_resets_the_count(play):
    assert play(1, [75, 175, 175, 0]) == (None, 4)
    assert play(1, [175, 75, 0])[1] == 2


def test_a_run_folder_that_cannot_be_seen_is_no_progress(play, monkeypatch, tmp_path):
    def gone() -> int:
        raise OSError("stale file handle")

    again = Again(1, Work(8, 4, tmp_path, gone))
    with Orders(1.0) as orders:
        failure = rounds.Rounds(lambda slots, orders: LOST, None, again, orders).run()
    assert failure.exit_code == 75


def test_waits_between_restarts_grow_and_end_with_a_signal(monkeypatch):
    """The signal comes during the third wait, and nothing is started after it."""
    monkeypatch.setattr(rounds, "FIRST_WAIT", 0.3)
    started: list[float] = []

    def attempt(slots, orders) -> Failure:
        started.append(time.monotonic())
        if len(started) == 3:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return LOST

    with Orders(1.0) as orders:
        failure = rounds.Rounds(attempt, None, Again(9), orders).run()
    first, second = (after - before for before, after in itertools.pairwise(started))
    assert 0.3 <= first < second
    assert len(started) == 3
    assert (failure.exit_code, "stopped by a signal" in failure.line) == (75, True)


@pytest.mark.real_start  # how real processes end is the question
def test_ranks_are_started_again_and_each_round_is_a_line(launcher, tmp_path):
    words = ["launch", "--nproc", "1", "--restarts", "1", "--", "in_turn", tmp_path]
    code, _, errors = launcher.run(*words, "retry", "0")
    assert code == 0
    lines = errors.splitlines()
    assert len(lines) == 2
    assert "round 2: the ranks on this machine; restart 1 of 1: rank 0 lost its storage" in lines[0]
    assert lines[1].startswith("fd-scale: 2 rounds in ")


@pytest.mark.real_start  # how real processes end is the question
@pytest.mark.parametrize(("own", "code"), [(None, 0), ("75", 75)])
def test_the_users_signal_ends_as_without_restarts(launcher, tmp_path, own, code):
    if own:
        launcher.environment["FD_SCALE_STOPPED_EXIT"] = own
    process = launcher.start("launch", "--nproc", "1", "--restarts", "3", "--", "steps", tmp_path)
    wait_until(lambda: launcher.has("world_1_rank_0"))
    process.send_signal(signal.SIGTERM)
    ended, output, errors = finish(process)
    assert (ended, output) == (code, "")
    assert errors.count("\n") == (1 if code else 0)
    assert launcher.has("step_1")


@pytest.mark.real_start  # how real processes end is the question
def test_a_stop_that_comes_from_elsewhere_is_not_the_end(launcher, tmp_path):
    """As a host that shuts down sends it to the ranks alone: they save, and the work is not done."""
    process = launcher.start("launch", "--nproc", "1", "--restarts", "1", "--", "steps", tmp_path)
    wait_until(lambda: launcher.has("world_1_rank_0") and launcher.read("world_1_rank_0"))
    os.kill(int(launcher.read("world_1_rank_0")), signal.SIGTERM)
    wait_until(lambda: launcher.has("step_1") and launcher.has("world_1_rank_0"))
    Path(tmp_path, "finish").touch()
    assert finish(process)[0] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"elastic": "1:2"}, "--elastic 1:2 needs --hostfile"),
        ({"elastic": "2:1"}, "MIN:MAX"),
        ({"restarts": -1}, "restarts=-1"),
        ({"restarts": 1, "nnodes": 2, "node_rank": 0, "master_addr": "a"}, "--restarts 1 on one node of several"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(options, named):
    with pytest.raises(BadInput, match=named):
        launch(["end_as", "0"], **options)


def test_elastic_is_for_verbs_with_a_global_batch():
    with pytest.raises(BadInput, match="distill or finetune"):
        starting_again("1:2", None, 600.0, 30.0, {"a": 1}, None, lambda: None)


def test_no_options_mean_one_start():
    node = Node("a", 1, 0, 1, "a", 29500)
    for restarts in (None, 0):
        assert starting_again(None, restarts, 600.0, 30.0, None, node, lambda: None) is None


def test_a_lease_that_somebody_renews_is_waited_for_and_one_that_nobody_renews_is_not(tmp_path):
    def pause(seconds: float) -> bool:
        time.sleep(seconds)
        return True

    wait_until_quiet(tmp_path / "lease", pause)  # there is none
    lease = Lease(tmp_path / "lease", "run", renew_seconds=0.1)
    assert lease.take()
    content = (tmp_path / "lease").read_bytes().replace(b'"host": "', b'"host": "another-')
    lease.release()
    (tmp_path / "lease").write_bytes(content)
    over = threading.Event()

    def renew() -> None:
        for number in range(6):
            time.sleep(0.1)
            (tmp_path / "lease").write_bytes(content + b" " * number)
        over.set()

    renewing = threading.Thread(target=renew)
    renewing.start()
    wait_until_quiet(tmp_path / "lease", pause, quiet_seconds=0.4)
    assert over.is_set()
    renewing.join()
