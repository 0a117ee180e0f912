"""`launch --elastic` and `--restarts` over real hosts: distillations that lose one of them, and take it back."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.hosts import SSHD, Host, Network, wait_until, why_not
from docs.pages import commands
from support.helpers import REPOSITORY, tiny_arguments
from tasks.running import SUMMATION, distilled, in_folder, losses, run

PAGE = REPOSITORY / "docs" / "cluster" / "elastic.md"
pytestmark = pytest.mark.skipif(SSHD is None, reason="needs sshd (apt-get install openssh-server)")
SLOW, FAST = 100_000, 10_000_000
"""Kilobits a second. With the first a step takes a second or two, so that things happen during the run."""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Hosts node1 to node3."""
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path / "network", hosts=3) as network:
        yield network


def logged(folder: Path) -> int:
    """Steps in the metrics."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def slowed(arguments: list[str]) -> list[str]:
    """Twelve images a step, which one, two and three ranks share, and four do not."""
    return [*arguments, "train.global_batch=12", "train.micro_batch=2", "schedule.steps=12"]


def options_on_page(number: int) -> list[str]:
    """Of the page's commands to launch, one by its number, up to the hostfile."""
    words = [words for words in commands(PAGE) if words[:2] == ["fd-scale", "launch"]][number]
    return words[2 : words.index("--hostfile")]


def slots_on_page() -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"^(\w+) slots=(\d+)$", PAGE.read_text(), re.MULTILINE)}


def launch(network: Network, log: Path, slots: dict[str, int], words: list[str], arguments: list[str]):
    ssh = network.serve_ssh()
    for host in network.hosts:
        host.slow_down(SLOW)
    command = ["env", f"FD_SCALE_SSH={ssh}", "OMP_NUM_THREADS=1", sys.executable, "-m", "fd_scale", "launch"]
    command += ["--hostfile", network.hostfile(slots), *words, "--", *arguments]
    with log.open("wb") as errors:
        return network.hosts[0].start(command, stderr=errors)


def test_losses_with_a_host_that_is_lost_and_taken_back_equal_the_undisturbed_ones(
    network, tmp_path, shards, teacher_file
):
    code, errors = run(slowed(tiny_arguments(shards, teacher_file, tmp_path / "whole")), nproc=1)
    assert code == 0, errors
    whole = losses(tmp_path / "whole")

    folder, log = tmp_path / "run", tmp_path / "log"
    last: Host = network.hosts[2]
    options = [*options_on_page(0), "--probe-every", "2"]
    started = launch(network, log, slots_on_page(), options, slowed(tiny_arguments(shards, teacher_file, folder)))

    wait_until(lambda: logged(folder) >= 3, seconds=180)
    last.kill_all()
    lost = time.monotonic()
    wait_until(lambda: "round 2: 2 ranks on node1 (1), node2 (1)" in log.read_text(), seconds=120)
    print(f"\nwithout the host after {time.monotonic() - lost:.1f} s")
    wait_until(lambda: logged(folder) >= 5, seconds=180)
    network.start_sshd(last)
    back = time.monotonic()
    wait_until(lambda: "round 3: 3 ranks on node1 (1), node2 (1), node3 (1)" in log.read_text(), seconds=120)
    print(f"with it again after {time.monotonic() - back:.1f} s")
    for host in network.hosts:
        host.slow_down(FAST)
    assert started.wait(timeout=180) == 0, log.read_text()
    print(log.read_text())

    assert "worlds of 1-3 ranks are possible; 4 skipped, because train.global_batch 12" in log.read_text()
    assert losses(folder) == pytest.approx(whole, rel=SUMMATION)


def test_a_cut_host_is_waited_for_where_the_world_is_fixed(network, tmp_path, shards, teacher_file):
    whole, arguments = distilled(shards, teacher_file)
    folder, log = tmp_path / "run", tmp_path / "log"
    last: Host = network.hosts[1]
    started = launch(network, log, {"node1": 1, "node2": 1}, options_on_page(1), in_folder(arguments, folder))

    wait_until(lambda: logged(folder) >= 3, seconds=180)
    last.cut()
    cut = time.monotonic()
    wait_until(lambda: "waiting for hosts: node2 does not answer" in log.read_text(), seconds=180)
    print(f"\nnoticed, and all ranks here ended, after {time.monotonic() - cut:.1f} s")
    last.mend()
    for host in network.hosts:
        host.slow_down(FAST)
    assert started.wait(timeout=300) == 0, log.read_text()
    print(log.read_text())

    assert "restart 1 of 1: host node2 (rank 1) has been silent for 10 s" in log.read_text()
    assert losses(folder) == losses(whole)
