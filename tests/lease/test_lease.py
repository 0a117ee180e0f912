"""Who holds a lease, who waits, and who takes over: with real processes, and with times short enough for a test."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.helpers import REPOSITORY, small_disk

from fd_scale.errors import BadInput, Retry
from fd_scale.lease import Lease, beside, held, holding
from fd_scale.lease.holder import Holder, this_process

RENEW, STALE = 0.2, 1.0
PROGRAM = """
import sys, time
from pathlib import Path
from fd_scale.errors import Expected
from fd_scale.lease import Lease, holding

file, renew, stale, seconds, *then = sys.argv[1:]
try:
    with holding(Lease(Path(file), "the run", float(renew), float(stale))) as lease:
        print("held", flush=True)
        sys.stdin.readline() if seconds == "wait" else time.sleep(float(seconds))
        lease.check()
except Expected as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that takes the lease of this test; none is left after it."""
    processes = []

    def starting(seconds: float | str = "wait", renew: float = RENEW, stale: float = STALE) -> subprocess.Popen:
        arguments = [str(tmp_path / "lease"), str(renew), str(stale), str(seconds)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        processes.append(process)
        return process

    yield starting
    for process in processes:
        process.kill()
        process.communicate()


def wanted(folder: Path, renew: float = RENEW, stale: float = STALE) -> Lease:
    return Lease(folder / "lease", "the run", renew, stale)


def taken(lease: Lease) -> float:
    """Wait for it; how long it took."""
    began = time.monotonic()
    while not lease.take():
        pass
    return time.monotonic() - began


def left_by(folder: Path, **facts: object) -> Holder:
    """A lease whose holder is gone, such as a start on another host left it."""
    holder = replace(this_process(), **facts)
    (folder / "lease").write_bytes(holder.to_bytes())
    return holder


def test_a_second_start_ends_with_75_when_the_token_changes_and_names_the_first(start, tmp_path):
    first = start()
    assert first.stdout.readline() == "held\n"
    began = time.monotonic()
    second = start()
    _, said = second.communicate(timeout=30)
    assert second.returncode == 75
    assert f"the run is in use by process {first.pid} on {os.uname().nodename}" in said
    assert time.monotonic() - began < STALE + 20  # by far sooner, but for a busy machine
    assert first.communicate("\n", timeout=30)[1] == ""
    assert first.returncode == 0


def test_what_was_released_is_taken_at_once(tmp_path, capsys):
    with holding(wanted(tmp_path)) as first:
        waiting = threading.Thread(target=lambda: time.sleep(0.1) or first.release())
        waiting.start()
        second = wanted(tmp_path, renew=30.0, stale=60.0)
        assert taken(second) < 10
        waiting.join()
    second.check()
    second.release()
    assert list(tmp_path.iterdir()) == []
    assert "taking over" not in capsys.readouterr().err


def test_an_exception_releases_it(tmp_path):
    def fail() -> None:
        with held(tmp_path / "file"):
            assert beside(tmp_path / "file").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_sigterm_releases_it_and_still_ends_the_process_as_sigterm_does(start, tmp_path):
    process = start()
    assert process.stdout.readline() == "held\n"
    process.terminate()
    process.wait(30)
    assert process.returncode == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_of_this_host_is_succeeded_at_once(start, tmp_path, capsys):
    first = start(renew=20, stale=120)
    assert first.stdout.readline() == "held\n"
    first.kill()  # and not waited for: a zombie is dead as well
    lease = wanted(tmp_path, renew=20, stale=120)
    assert taken(lease) < 10
    assert f"the run: taking over from process {first.pid} on " in capsys.readouterr().err
    lease.release()


def test_a_process_that_only_has_the_number_of_the_holder_is_another(tmp_path):
    left_by(tmp_path, started=this_process().started - 1)
    lease = wanted(tmp_path, renew=20, stale=120)
    assert taken(lease) < 10
    lease.release()


@pytest.mark.parametrize(
    "elsewhere", [{"host": "another"}, {"boot_id": "another"}, {"pid_namespace": 1}, {"boot_id": ""}]
)
def test_a_process_that_cannot_be_seen_from_here_is_waited_for(elsewhere, tmp_path, capsys):
    there = {"pid": 2**22 + 1, **elsewhere}  # no process of this host, which says nothing of another one
    if "boot_id" in elsewhere and not elsewhere["boot_id"]:
        there["pid_namespace"] = 0
    left_by(tmp_path, **there)
    os.utime(tmp_path / "lease", (0, 0))  # 1970: the time of the file is not looked at
    lease = wanted(tmp_path)
    assert taken(lease) >= STALE
    said = capsys.readouterr().err
    assert f"waiting for up to {STALE:g} s" in said
    assert f"which gave no sign of life for {STALE:g} s" in said
    lease.release()


def test_of_many_that_find_a_stale_lease_one_takes_it(start, tmp_path):
    left_by(tmp_path, host="another")
    rivals = [start() for _ in range(6)]
    while not (running := [rival for rival in rivals if rival.poll() is not None]) or len(running) < len(rivals) - 1:
        time.sleep(0.05)
    codes = sorted(rival.returncode or 0 for rival in rivals)
    assert codes == [0, 75, 75, 75, 75, 75]
    (winner,) = [rival for rival in rivals if rival.poll() is None]
    assert Holder.from_bytes((tmp_path / "lease").read_bytes()).pid == winner.pid
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_a_holder_that_was_stopped_ends_with_75_and_leaves_the_new_lease_alone(start, tmp_path):
    first = start()
    assert first.stdout.readline() == "held\n"
    os.kill(first.pid, signal.SIGSTOP)
    second = wanted(tmp_path)
    assert taken(second) >= STALE
    os.kill(first.pid, signal.SIGCONT)
    _, said = first.communicate("\n", timeout=30)
    assert first.returncode == 75
    assert f"was taken over by process {os.getpid()}" in said
    second.check()
    second.release()


def test_a_step_notices_that_the_process_was_stopped_before_the_thread_renews_again(tmp_path):
    """`lost` looks at the file where the last renewal is too old, and at nothing otherwise."""
    with holding(wanted(tmp_path, renew=60)) as lease:
        successor = left_by(tmp_path)
        assert not lease.lost()
        lease._renewed -= 121
        assert lease.lost()
        with pytest.raises(Retry, match="was taken over"):
            lease.check()
    assert Holder.from_bytes((tmp_path / "lease").read_bytes()) == successor


def test_a_lease_that_is_gone_is_lost(tmp_path):
    """Who took it over may have finished: going on would overwrite what was done since."""
    with holding(wanted(tmp_path)) as lease:
        (tmp_path / "lease").unlink()
        with pytest.raises(Retry, match="was removed"):
            lease.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\0\xff", b'{"host": 1}'])
def test_what_is_no_lease_is_waited_for_as_one(content, tmp_path):
    (tmp_path / "lease").write_bytes(content)
    lease = wanted(tmp_path, stale=0.3)
    assert taken(lease) >= 0.3
    lease.release()


def test_a_takeover_that_was_killed_halfway_blocks_nobody(tmp_path):
    dead = left_by(tmp_path, started=1)
    (tmp_path / "lease.takeover").write_bytes(dead.to_bytes())
    lease = wanted(tmp_path)
    assert taken(lease) < 10
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/run.*Not a directory; give a place"):
        wanted(tmp_path / "file" / "run").take()
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 1):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(BadInput, match="Read-only file system; give a place"):
            wanted(disk).take()


def test_a_full_disk_is_one_line_and_leaves_no_lease(tmp_path):
    with small_disk(tmp_path, 1):
        with open(tmp_path / "big", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(BadInput, match="free space there"):
            wanted(tmp_path).take()
        assert not (tmp_path / "lease").exists()
