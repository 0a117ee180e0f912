"""Two hosts that map their own names to 127.0.1.1 in /etc/hosts, as Debian's installer does, without any setting."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.hosts import SSHD, Host, Network, why_not

PROGRAM = Path(__file__).parents[1] / "launch" / "program.py"
JOIN = """
from fd_scale.parallel import ranks
ranks.start(1.0)
print(ranks.sum_over_ranks([1.0]))
"""


@pytest.fixture
def network(tmp_path) -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path / "network", name_on_loopback=True) as network:
        yield network


@pytest.fixture
def environment(network) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("GLOO_SOCKET_IFNAME", "RANK")}


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def start(host: Host, words: list[str | Path], environment: dict[str, str]) -> subprocess.Popen[str]:
    return host.start(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(SSHD is None, reason="needs sshd (apt-get install openssh-server)")
def test_the_interface_is_found_from_the_hostfile(network, environment, tmp_path):
    environment["FD_SCALE_SSH"] = network.serve_ssh()
    words = [sys.executable, PROGRAM, "launch", "--hostfile", network.hostfile(), "--", "all_reduce", tmp_path]
    assert finish(start(network.hosts[0], words, environment))[0] == 0
    assert [(tmp_path / f"sum_{rank}").read_text() for rank in range(2)] == ["3.0", "3.0"]


def test_the_interface_is_found_by_a_launcher_on_each_host(network, environment, tmp_path):
    words = [sys.executable, PROGRAM, "launch", "--nnodes", "2", "--master-addr", "node1", "--nproc", "1"]
    nodes = [
        start(host, [*words, "--node-rank", str(host.number - 1), "--", "all_reduce", tmp_path], environment)
        for host in network.hosts
    ]
    assert [finish(node)[0] for node in nodes] == [0, 0]
    assert [(tmp_path / f"sum_{rank}").read_text() for rank in range(2)] == ["3.0", "3.0"]


def test_the_interface_is_found_by_ranks_that_another_launcher_started(network, environment):
    meeting = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    ranks = [
        start(host, [sys.executable, "-c", JOIN], {**environment, **meeting, "RANK": str(host.number - 1)})
        for host in network.hosts
    ]
    assert [finish(rank)[:2] for rank in ranks] == [(0, "[2.0]\n")] * 2
