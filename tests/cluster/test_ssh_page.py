"""The commands of docs/cluster/ssh.md, as they are printed, on two hosts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.hosts import SSHD
from docs.pages import blocks, matches
from support.helpers import REPOSITORY
from tasks.running import losses


@pytest.mark.skipif(SSHD is None, reason="needs sshd (apt-get install openssh-server)")
def test_the_commands_of_the_page_make_one_run(network, tmp_path):
    hostfile, with_ssh, on_first, on_second = blocks(REPOSITORY / "docs" / "cluster" / "ssh.md")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'downstream'}",
        "FD_SCALE_SSH": network.serve_ssh(),
        "OMP_NUM_THREADS": "1",
    }
    first, second = network.hosts

    def start(host, block) -> subprocess.Popen[str]:
        words = ["bash", "-ec", block.commands]
        return host.start(words, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    def finish(process: subprocess.Popen[str]) -> str:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
        return errors

    finish(start(first, hostfile))
    errors = finish(start(first, with_ssh))
    (printed,) = with_ssh.printed
    assert any(matches(printed, line) for line in errors.splitlines()), errors
    nodes = [start(first, on_first), start(second, on_second)]
    for node in nodes:
        finish(node)
    assert set(losses(tmp_path / "runs" / "two")) == {2, 4}  # the last steps of the two starts are logged
