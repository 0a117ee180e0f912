"""Two hosts of a hostfile: one is cut off; both are stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.hosts import SSHD, Host, Network, wait_until
from tasks.running import distilled, in_folder, losses, wait_for

from fd_scale.stops.stopped_exit import STOPPED_EXIT

LAUNCH = [sys.executable, "-m", "fd_scale", "launch"]
pytestmark = pytest.mark.skipif(SSHD is None, reason="needs sshd (apt-get install openssh-server)")
SLOW = 100_000
"""Kilobits a second to the second host, so that no run is over before a test has done something to it."""


@pytest.fixture
def environment(network: Network) -> dict[str, str]:
    network.hosts[1].slow_down(SLOW)
    return {**os.environ, "FD_SCALE_SSH": network.serve_ssh(), "OMP_NUM_THREADS": "1"}


def ours(host: Host) -> list[int]:
    """Processes of a host but sshd's, which wait for the network to come back."""
    found = []
    for process in host.processes():
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if words and b"sshd" not in words.split(b"\0")[0]:
            found.append(process)
    return found


def start(network: Network, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [*LAUNCH, "--hostfile", network.hostfile(), *words]
    return network.hosts[0].start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_cut_host_is_named_and_freed_and_the_run_resumes(network, environment, shards, teacher_file, tmp_path):
    whole, arguments = distilled(shards, teacher_file)
    folder = tmp_path / "run"
    arguments = [*in_folder(arguments, folder), "data.workers=1"]
    first, second = network.hosts
    launched = start(network, environment, "--lost-after", "10", "--", *arguments)
    wait_for(folder / "checkpoints" / "step_00000002", seconds=300)
    second.cut()
    time.sleep(2)
    second.mend()  # so short a cut changes nothing
    wait_for(folder / "checkpoints" / "step_00000004", seconds=300)
    second.cut()
    cut = time.monotonic()
    _, errors = launched.communicate(timeout=300)
    noticed = time.monotonic() - cut
    assert launched.returncode == 75, errors
    assert "fd-scale: host node2 (rank 1) has been silent for 10 s: the host or its network is gone" in errors
    assert max(losses(folder)) < 8

    # At once, without the cut host, whose rank is still there.
    assert ours(second)
    words = [*LAUNCH, "--nproc", "2", "--", *arguments, "run.stop_at=6"]
    alone = first.start(words, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: not ours(second), seconds=300)
    freed = time.monotonic() - cut
    _, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    assert "resuming from" in errors
    print(f"the launcher ended after {noticed:.1f} s, the last process of the cut host after {freed:.1f} s")

    second.mend()
    again = start(network, environment, "--lost-after", "10", "--", *arguments)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert losses(folder) == losses(whole)


def test_a_stop_is_75_where_the_environment_says_so(network, environment, shards, teacher_file, tmp_path):
    _, arguments = distilled(shards, teacher_file)
    folder = tmp_path / "run"
    arguments = ["--", *in_folder(arguments, folder), "run.save_every=1000", "data.workers=1"]
    process = start(network, {**environment, STOPPED_EXIT: "75"}, *arguments)
    wait_for(folder / "metrics.jsonl", seconds=300)
    wait_until((folder / "metrics.jsonl").read_text)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    step = max(losses(folder))
    (line,) = [line for line in errors.splitlines() if line.startswith("fd-scale: ")]
    assert line == (
        f"fd-scale: stopped by a signal after step {step} of 8, which is saved; start the same command again to resume"
    )
