"""`launch --elastic`: hosts that go and come back, behind a command in ssh's place. `tests/cluster` has real ones.

The command runs what it is given here, for a host that is not `down`, and ends as ssh does where the other end is lost.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from launching import finish, wait_until

from fd_scale.errors import BadInput, Retry
from fd_scale.launch.elastic import Again, Work, rounds
from fd_scale.launch.elastic.probing import Lookout, Probing, State
from fd_scale.launch.elastic.ready import LAUNCH
from fd_scale.launch.elastic.rounds import Rounds
from fd_scale.launch.watch import Orders

SSH = """#!/bin/sh
for word in "$@"; do before=$host; host=$command; command=$word; done
[ -e "$FOLDER/down_$host" ] && { echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; }
[ -e "$FOLDER/unfit_$host" ] && { echo "cd: no such folder" >&2; exit 1; }
sh -c "$command"
code=$?
[ $code -gt 128 ] && exit 255
exit $code
"""


HOSTS = {"a": 1, "b": 1}


@pytest.fixture
def ssh(tmp_path, monkeypatch) -> None:
    command = tmp_path / "ssh"
    command.write_text(SSH)
    command.chmod(0o755)
    monkeypatch.setenv("FD_SCALE_SSH", str(command))
    monkeypatch.setenv("FOLDER", str(tmp_path))


def world(launcher, size: int) -> bool:
    """Whether so many ranks train, and no others."""
    running = {file.name for file in launcher.folder.glob("world_*") if file.read_text()}
    return running == {f"world_{size}_rank_{rank}" for rank in range(size)}


def lose(launcher, host: str, rank: str) -> None:
    """Its launcher and its ranks are gone, and it does not answer."""
    (launcher.folder / f"down_{host}").touch()
    process = launcher.read(rank)
    (launcher.folder / rank).unlink()
    parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)


@pytest.mark.real_start  # launchers are the question
def test_the_others_go_on_without_a_lost_host_and_it_is_taken_back_until_the_user_stops_all(ssh, launcher, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{host} slots={count}\n" for host, count in HOSTS.items()))
    options = ["--elastic", "1:2", "--restarts", "1", "--probe-every", "0.2"]
    process = launcher.start("launch", "--hostfile", hostfile, *options, "--", "steps", tmp_path)
    wait_until(lambda: world(launcher, 2))
    lose(launcher, "a", "world_2_rank_0")  # the host of rank 0: the others meet on another one
    wait_until(lambda: world(launcher, 1))
    (tmp_path / "down_a").unlink()
    wait_until(lambda: world(launcher, 2))
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    lines = [line.removeprefix("fd-scale: ") for line in errors.splitlines() if line.startswith("fd-scale: ")]
    assert (code, len(lines)) == (0, 5), errors
    assert lines[0] == "elastic: worlds of 1 and 2 ranks are possible"
    assert " round 1: 2 ranks on a (1), b (1); the start" in lines[1]
    assert " round 2: 1 rank on b (1); restart 1 of 1: host a (rank 0): ssh failed or lost the connection" in lines[2]
    assert "without a, which does not answer (ssh: connect to host a port 22: No route to host)" in lines[2]
    assert " round 3: 2 ranks on a (1), b (1); a can take ranks again" in lines[3]
    assert lines[4].startswith("3 rounds in ")
    assert lines[4].count(" for ") == 3


@pytest.fixture
def started(ssh, tmp_path, monkeypatch):
    """Rounds whose ranks end well at once, on which hosts, and what is said."""
    monkeypatch.setattr(rounds, "ASK_AGAIN_SECONDS", 0.05)

    def started(bounds: range, wait_for_hosts: float = 60.0) -> list[dict[str, int]]:
        ranks: list[dict[str, int]] = []
        again = Again(1, Work(4, 1, tmp_path / "run", lambda: 0), bounds, wait_for_hosts)
        with Orders(1.0) as orders:
            Rounds(lambda slots, orders: ranks.append(slots), HOSTS, again, orders).run()
        return ranks

    return started


def test_below_the_smallest_world_hosts_are_waited_for(started, tmp_path, capfd):
    (tmp_path / "down_a").touch()
    threading.Timer(0.5, (tmp_path / "down_a").unlink).start()
    assert started(range(2, 3)) == [{"a": 1, "b": 1}]
    assert "waiting for hosts: a does not answer (ssh: connect to host a" in capfd.readouterr().err


def test_a_host_that_is_silent_at_the_start_is_not_waited_for(started, tmp_path):
    (tmp_path / "down_a").touch()
    assert started(range(1, 3)) == [{"b": 1}]


def test_too_few_hosts_for_too_long_are_worth_a_retry(started, tmp_path):
    for host in HOSTS:
        (tmp_path / f"down_{host}").touch()
    with pytest.raises(Retry, match="0 slots of the hostfile are there, and 1 are needed: a does not answer"):
        started(range(1, 3), wait_for_hosts=0.0)


def test_a_host_without_the_folder_is_refused_at_the_start(started, tmp_path):
    (tmp_path / "unfit_b").touch()
    with pytest.raises(BadInput, match="host b: cd: no such folder"):
        started(range(1, 3))


@pytest.mark.real_start  # the environment of a process, as the system shows it, is the question
def test_a_host_is_ready_when_it_sees_the_run_folder_and_has_no_ranks_left(ssh, tmp_path):
    """A process with the words of a launcher stands for one whose ranks are ending."""
    words = [sys.executable, "-c", "import time; time.sleep(60)", "--node", json.dumps({"host": "a"})]
    left = subprocess.Popen(words, env={**os.environ, LAUNCH: "this"})
    try:
        with Probing("this") as probing:
            wait_until(lambda: probing.ask(["a"])["a"].state is State.BUSY)
            assert probing.ask(["b"])["b"].state is State.READY
        with Probing("another", lambda: tmp_path / "elsewhere") as probing:
            answer = probing.ask(["a"])["a"]
            assert (answer.state, "elsewhere" in answer.reason) == (State.UNFIT, True)
    finally:
        left.kill()
        left.wait()


def test_the_end_of_a_round_and_a_signal_end_what_is_being_asked(ssh, started, tmp_path):
    """Nobody waits for the answer, which takes a minute."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    began = time.monotonic()
    with Lookout("this", lambda: None, ["a"], 0.01, lambda ready: True):
        time.sleep(0.2)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert started(range(1, 3)) == []
    assert time.monotonic() - began < 15
