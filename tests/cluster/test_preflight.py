"""`fd-scale launch --check` on hosts that are well, and on hosts with one thing wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.hosts import Network, why_not
from docs.pages import blocks, commands, matches
from support.helpers import REPOSITORY, small_disk, tiny_arguments


@pytest.fixture
def ssh(network) -> str:
    return network.serve_ssh()


def check(network, ssh: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fd_scale", "launch", "--check", "--hostfile", network.hostfile(), *words]
    environment = {**os.environ, "FD_SCALE_SSH": ssh, "PYTHONPATH": str(REPOSITORY)}
    return network.hosts[0].run(command, env=environment, cwd=REPOSITORY)


def faults(network, ssh: str, *words: str | Path) -> list[tuple[str, str, str, str]]:
    """Check, host, value and fix of what is wrong; and the exit code and the line say so as well."""
    done = check(network, ssh, "--json", *words)
    found = [entry for entry in json.loads(done.stdout)["checks"] if entry["status"] == "wrong"]
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert all(entry["check"] in done.stderr and entry["host"] in done.stderr for entry in found)
    return [(entry["check"], entry["host"], entry["value"], entry["fix"]) for entry in found]


def inside(network, host: int, *words: str | Path) -> None:
    """Run a command among the mounts of the sshd of a host, so that all that ssh starts there sees what it does."""
    server = network.servers[host]
    subprocess.run(["nsenter", f"--mount=/proc/{server.pid}/ns/mnt", *map(str, words)], check=True)


def test_two_healthy_hosts_are_a_table_without_a_fault_as_the_page_shows_it(network, ssh, shards, tmp_path):
    page = REPOSITORY / "docs" / "cluster" / "preflight.md"
    (block,) = blocks(page)
    ((program, *words),) = commands(page)
    words = [str(network.hostfile()) if word == "hosts.txt" else word for word in words]
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine").symlink_to(shards)
    environment = {**os.environ, "FD_SCALE_SSH": ssh, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", program.replace("-", "_"), *words]
    done = network.hosts[0].run(command, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == len(block.printed)
    assert all(matches(expected, line) for expected, line in zip(block.printed, lines, strict=True)), done.stdout
    assert not list(tmp_path.rglob(".fd_scale_check*"))
    assert not (tmp_path / "runs").exists()


def test_a_host_without_sshd_is_named_and_the_other_is_checked(network, ssh):
    network.servers[1].kill()
    network.servers[1].wait()
    ((name, host, value, fix),) = faults(network, ssh)
    assert (name, host) == ("ssh", "node2")
    assert "Connection refused" in value
    assert "ssh node2 true" in fix


def test_other_code_and_another_version_of_a_package_are_named(network, ssh, tmp_path):
    """By mounts that one host has: a changed copy of our package, and other metadata of numpy."""
    copy, metadata = tmp_path / "copy", tmp_path / "METADATA"
    shutil.copytree(REPOSITORY / "fd_scale", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "errors.py").open("a") as file:
        file.write("# an older revision\n")
    inside(network, 1, "mount", "--bind", copy, REPOSITORY / "fd_scale")
    import numpy

    (real,) = Path(numpy.__file__).parents[1].glob("numpy-*.dist-info/METADATA")
    metadata.write_text(real.read_text().replace(f"\nVersion: {numpy.__version__}\n", "\nVersion: 1.26.0\n"))
    inside(network, 1, "mount", "--bind", metadata, real)
    packages, code = faults(network, ssh)
    assert packages[:2] == ("packages", "node2")
    assert packages[2] == f"numpy 1.26.0, where node1 has {numpy.__version__}"
    assert f"pip install numpy=={numpy.__version__}" in packages[3]
    assert code[:2] == ("code", "node2")
    assert str(REPOSITORY / "fd_scale") in code[2]
    assert "node1" in code[3]


def test_a_run_folder_that_is_not_shared_and_other_data_are_named(network, ssh, shards, teacher_file, tmp_path):
    folder, other = tmp_path / "runs", tmp_path / "other"
    folder.mkdir()
    shutil.copytree(shards, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"].reverse()
    (other / "manifest.json").write_text(json.dumps(manifest))
    inside(network, 1, "mount", "-t", "tmpfs", "none", folder)
    inside(network, 1, "mount", "--bind", other, shards)
    data, run_folder = faults(network, ssh, "--", *tiny_arguments(shards, teacher_file, folder / "mine"))
    assert data[:2] == ("data", "node2")
    assert f"data.train={shards}" in data[2]
    assert "node1" in data[3]
    assert run_folder[:2] == ("run folder", "node2")
    assert f"{folder} is not shared" in run_folder[2]
    assert "mount the storage of node1" in run_folder[3]


def test_a_port_that_is_in_use_or_behind_a_firewall_is_named(network, ssh):
    first = network.hosts[0]
    listen = "import socket; s = socket.create_server(('', 29617)); s.accept()"
    with first.start([sys.executable, "-c", listen]) as server:
        try:
            while not first.run(["ss", "-Hltn", "sport = :29617"]).stdout:
                pass
            ((name, host, value, fix),) = faults(network, ssh, "--master-port", "29617")
        finally:
            server.kill()
    assert (name, host, value) == ("port", "node1", "port 29617 is in use")
    assert "--master-port" in fix
    rules = "table inet wall { chain incoming { type filter hook input priority 0; tcp dport 29618 drop; }; }"
    assert first.run(["nft", rules]).returncode == 0, "needs nft (apt-get install nftables)"
    ((name, host, value, fix),) = faults(network, ssh, "--master-port", "29618")
    assert (name, host) == ("port", "node2")
    assert "cannot reach node1 (10.77.0.1) on port 29618: timed out" in value
    assert "firewalls" in fix


def test_a_full_disk_is_named(network, shards, teacher_file, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    with small_disk(folder, mebibytes=8):
        ssh = network.serve_ssh()
        found = faults(network, ssh, "--", *tiny_arguments(shards, teacher_file, folder / "run"))
        for host in network.hosts:  # which have the disk among their mounts
            host.kill_all()
    assert [entry[:2] for entry in found] == [("disk", "node1"), ("disk", "node2")]
    assert all("MiB free in" in value and "run.folder" in fix for _, _, value, fix in found)


def test_hosts_whose_own_name_is_on_loopback_are_measured_all_the_same(tmp_path):
    """As Debian's installer writes /etc/hosts."""
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path / "network", name_on_loopback=True) as network:
        done = check(network, network.serve_ssh())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_slow_link_is_named(network, ssh):
    network.hosts[1].slow_down(20_000)
    ((name, pair, value, fix),) = faults(network, ssh)
    assert (name, pair) == ("bandwidth", "node1-node2")
    assert float(value.split()[0]) < 20e6 / 8 / 1e9 * 2
    assert "speed of the link" in fix
