"""A run on two hosts, watched from the other one as docs/cluster/watching.md shows it, until a host is lost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.hosts import wait_until
from docs.pages import blocks, matches
from support.helpers import REPOSITORY, tiny_arguments

PAGE = REPOSITORY / "docs" / "cluster" / "watching.md"


@pytest.fixture
def environment(network) -> dict[str, str]:
    """In which `fd-scale` is ours, on every host."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": programs, "PYTHONPATH": str(REPOSITORY), "FD_SCALE_SSH": network.serve_ssh(), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def is_rank(process: int) -> bool:
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    return "run.folder=runs/mine" in words and "distill" in words and "launch" not in words


def test_a_run_is_watched_as_the_page_shows_it_and_says_who_is_slow_and_how_it_ended(
    network, environment, shards, teacher_file, tmp_path
):
    first, second = network.hosts
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine").symlink_to(shards)
    network.hostfile().rename(tmp_path / "hosts.txt")
    run = tmp_path / "runs" / "mine"
    looks = [block for block in blocks(PAGE) if "launch" not in block.commands]
    (launch,) = [block.commands for block in blocks(PAGE) if "launch" in block.commands]
    small = [word for word in tiny_arguments(shards, teacher_file, run)[2:] if not word.startswith(("data.t", "run.f"))]
    more = " ".join([*small, "schedule.steps=100000", "run.save_every=5", "data.workers=0"])

    def shell(host, commands: str) -> str:
        done = host.run(["bash", "-e", "-c", commands], env=environment, cwd=tmp_path)
        assert done.returncode == 0, (commands, done.stderr)
        return done.stdout

    def state() -> dict:
        return json.loads(shell(second, "fd-scale status runs/mine --json"))[0]

    command = ["bash", "-c", f"exec {launch.strip()} {more}"]
    process = first.start(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: list(run.glob("checkpoints/step_*")) or process.poll() is not None, 180)
        wait_until(lambda: state()["slowest"] or process.poll() is not None, 60)
        for block in looks:
            # Rank 0 is on the first host, and its page on loopback there; the folder is seen from the other as well.
            lines = shell(first if "curl" in block.commands else second, block.commands).splitlines()
            missing = [expected for expected in block.printed if not any(matches(expected, line) for line in lines)]
            assert not missing, (missing, lines)
        assert second.run(["curl", "--silent", "--max-time", "5", "http://node1:9400/metrics"]).returncode == 7

        # Three busy processes beside rank 1, on the processor that it has to itself else.
        (rank,) = [process for process in second.processes() if is_rank(process)]
        subprocess.run(["taskset", "-apc", "1", str(rank)], check=True, capture_output=True)
        busy = [second.start(["taskset", "-c", "1", sys.executable, "-c", "while True: pass"]) for _ in range(3)]
        end = time.monotonic() + 120
        while (slow := state()["slowest"])["rank"] != 1 or slow["ratio"] < 1.5:
            assert time.monotonic() < end, slow
        assert slow["host"] == "node2"
        for one in busy:
            one.kill()
            one.wait()

        second.kill_all()
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 75, errors
    (seen,) = json.loads(shell(first, "fd-scale status runs/mine --json"))
    assert seen["state"] == "ended"
    assert seen["checkpoint"]["step"] >= 5
    assert (seen["failure"]["rank"], "exit code 75" in seen["failure"]["line"]) == (0, True)
