"""Ranks on two hosts behind a real sshd: this machine under two names."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import finish, wait_until

from fd_scale.launch.environment import free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.real_start,  # launchers, started by ssh, are the question
    pytest.mark.skipif(SSHD is None, reason="needs sshd (openssh-server)"),
]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory) -> Iterator[str]:
    """The ssh command that reaches an sshd of our own, with its own keys, on loopback."""
    folder: Path = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start without; a service manager would make it
    port = free_port()
    configuration = folder / "sshd_config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TMPDIR={folder}\n"  # logs that a launcher keeps go with the tests
    )
    with subprocess.Popen([SSHD, "-D", "-e", "-f", configuration], stderr=subprocess.DEVNULL) as server:
        wait_until(lambda: _answers(port))
        yield (
            f"ssh -p {port} -i {folder}/user_key -l {getpass.getuser()} -o IdentitiesOnly=yes -F none "
            f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/known_hosts -o LogLevel=ERROR"
        )
        server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def hostfile(launcher, ssh, tmp_path) -> Path:
    launcher.environment["FD_SCALE_SSH"] = ssh
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    return path


def test_ranks_of_two_hosts_reduce_together(launcher, hostfile, tmp_path):
    assert launcher.run("launch", "--hostfile", hostfile, "--", "all_reduce", tmp_path) == (0, "", "")
    assert [launcher.read(f"sum_{rank}") for rank in range(2)] == ["3.0", "3.0"]


@pytest.mark.parametrize(
    ("endings", "code", "line"),
    [
        (["bad", "wait"], 2, "rank 0 dislikes its input"),
        (["wait", "bad"], 2, "rank 1 dislikes its input"),
        (["wait", "retry"], 75, "rank 1 lost its storage"),
        (["lost_peer", "late_bad"], 2, "rank 1 dislikes its input later"),
    ],
)
def test_expected_end_of_a_remote_rank_is_one_line_and_its_code(launcher, hostfile, endings, code, line):
    assert launcher.run("launch", "--hostfile", hostfile, "--", "end_as", *endings) == (code, "", f"fd-scale: {line}\n")


def test_bug_of_a_remote_rank_shows_its_traceback(launcher, hostfile):
    code, _, errors = launcher.run("launch", "--hostfile", hostfile, "--", "end_as", "wait", "bug")
    assert code == 1
    assert "KeyError: 'an assumption that does not hold'" in errors
    assert errors.count("fd-scale:") == 1


def test_arguments_and_environment_arrive_as_they_are(launcher, hostfile, tmp_path):
    words = ["two words", "it's", "$HOME", "a;b", '"', "*"]
    launcher.environment["HF_TOKEN"] = "secret"
    assert launcher.run("launch", "--hostfile", hostfile, "--", "say", *words) == (0, "\n".join(words) + "\n", "")
    assert launcher.run("launch", "--hostfile", hostfile, "--", "environment", tmp_path)[0] == 0
    for rank in range(2):
        environment = launcher.read(f"environment_{rank}").splitlines()
        assert environment[:5] == [
            f"RANK={rank}",
            "LOCAL_RANK=0",
            "WORLD_SIZE=2",
            "LOCAL_WORLD_SIZE=1",
            "MASTER_ADDR=127.0.0.1",
        ]
        assert environment[-2:] == [f"FD_SCALE_NOTE={tmp_path}", "HF_TOKEN=secret"]


def test_secrets_arrive_and_stand_in_no_arguments_but_the_users(launcher, hostfile, tmp_path):
    launcher.environment["HF_TOKEN"] = "hunter2Token"
    words = ["run.mlflow=http://user:hunter2Pass@host/?token=hunter2Query", "--token", "hunter2Word", "x=it's\n$HOME"]
    process = launcher.start("launch", "--hostfile", hostfile, "--", "look", tmp_path, "hunter2", *words)
    assert finish(process) == (0, "", "")
    for rank in range(2):
        seen = json.loads(launcher.read(f"seen_{rank}"))
        assert seen["words"] == words
        assert seen["token"] == "hunter2Token"
        assert set(seen["processes"]) == {process.pid}


def test_a_line_from_another_host_holds_no_secret(launcher, hostfile):
    word = "http://user:hunter2Pass@host/a"
    code, output, errors = launcher.run("launch", "--hostfile", hostfile, "--", "end_as", "wait", f"bad {word}", word)
    assert (code, output, errors) == (2, "", "fd-scale: rank 1 dislikes http://user:***@host/a\n")


def start_training(launcher, hostfile, *options: str):
    process = launcher.start("launch", "--hostfile", hostfile, "--", "train", launcher.folder, *options)
    wait_until(lambda: launcher.has("running_0", "running_1"))
    return process


def test_signal_travels_to_the_hosts_and_a_saved_end_is_zero(launcher, hostfile):
    process = start_training(launcher, hostfile)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (0, "", "")
    assert [launcher.read(f"saved_{rank}") for rank in range(2)] == ["SIGTERM", "SIGTERM"]


def test_second_signal_kills_on_the_hosts(launcher, hostfile):
    process = start_training(launcher, hostfile, "stubborn", "grandchild")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert (code, errors.count("\n")) == (75, 1)
    assert not launcher.has("saved_0")


def test_kill_9_of_the_local_launcher_leaves_no_remote_process(launcher, hostfile):
    process = start_training(launcher, hostfile, "grandchild")
    process.kill()
    process.communicate()
    wait_until(lambda: not launcher.processes(), seconds=10)
    assert launcher.read("saved_1") == "SIGTERM"  # the connection may be all that was lost, so it could save


def test_kill_9_of_a_remote_launcher_is_75_and_leaves_no_process(launcher, hostfile):
    process = start_training(launcher, hostfile, "grandchild")
    rank = int(launcher.read("running_1"))
    os.kill(_parent_of(rank), signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 75
    assert errors.startswith("fd-scale: host localhost (rank 1): ssh failed or lost the connection")


def _parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_host_that_cannot_be_reached_is_named(launcher, hostfile):
    launcher.environment["FD_SCALE_SSH"] = f"ssh -F none -p {free_port()}"
    code, _, errors = launcher.run("launch", "--hostfile", hostfile, "--", "say", "hello")
    assert code == 75
    assert errors.count("fd-scale:") == 1
    last_line = errors.splitlines()[-1]
    assert "ssh failed" in last_line
    assert "Connection refused" in last_line


def test_port_in_use_on_the_first_host_is_refused(launcher, hostfile):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        arguments = ["launch", "--hostfile", hostfile, "--master-port", port, "--", "end_as", "wait", "wait"]
        code, _, errors = launcher.run(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"port {port}" in errors
