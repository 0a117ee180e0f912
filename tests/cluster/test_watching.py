"""A run on two hosts, watched from the other one as docs/cluster/watching.md shows it, until a host is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.hosts import wait_until
from cluster.test_preflight import inside
from docs.pages import blocks, matches
from support.helpers import REPOSITORY, tiny_arguments

PAGE = REPOSITORY / "docs" / "cluster" / "watching.md"


@pytest.fixture
def environment(network) -> dict[str, str]:
    """In which `fd-scale` is ours, on every host."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": programs, "PYTHONPATH": str(REPOSITORY), "FD_SCALE_SSH": network.serve_ssh(), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def slow_reading(network, copy: Path) -> None:
    """On the second host, each image takes its time, as from storage that is far away: by a copy of our package that
    is mounted there alone."""
    shutil.copytree(REPOSITORY / "fd_scale", copy, ignore=shutil.ignore_patterns("__pycache__"))
    reader = copy / "data" / "reader.py"
    read = "            return os.pread(self._file, size, offset)\n"
    assert read in reader.read_text()
    reader.write_text(reader.read_text().replace(read, f"            __import__('time').sleep(0.3)\n{read}"))
    inside(network, 1, "mount", "--bind", copy, REPOSITORY / "fd_scale")


def test_a_run_is_watched_as_the_page_shows_it_and_says_who_is_slow_and_how_it_ended(
    network, environment, shards, teacher_file, tmp_path
):
    first, second = network.hosts
    slow_reading(network, tmp_path / "slower_package")
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
        assert process.poll() is None, process.communicate()[1]
        wait_until(lambda: state()["slowest"], 60)
        page = "curl --silent http://127.0.0.1:9400/metrics"
        wait_until(lambda: "checkpoint_step{" in shell(first, page), 60)  # the run tells of it at the next logged step
        for block in looks:
            # Rank 0 is on the first host, and its page on loopback there; the folder is seen from the other as well.
            lines = shell(first if "curl" in block.commands else second, block.commands).splitlines()
            missing = [expected for expected in block.printed if not any(matches(expected, line) for line in lines)]
            assert not missing, (missing, lines)
        assert second.run(["curl", "--silent", "--max-time", "5", "http://node1:9400/metrics"]).returncode == 7

        assert (slow := state()["slowest"])["rank"] == 1, slow
        assert slow["host"] == "node2"
        assert slow["ratio"] > 1.5

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
