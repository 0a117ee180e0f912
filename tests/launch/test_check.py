"""What `launch --check` makes of what hosts say; tests/cluster/test_preflight.py has real hosts."""

import itertools
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fd_scale.errors import BadInput
from fd_scale.launch.check import PACKAGES, alone
from fd_scale.launch.check.findings import Finding, as_table
from fd_scale.launch.check.pairs import judged, sample, tournament
from fd_scale.verbs.launched import places_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("hosts", [1, 2, 3, 6, 7, 16])
def test_in_a_tournament_each_pair_meets_once_and_no_host_is_in_two_pairs_of_a_round(hosts):
    rounds = tournament(hosts)
    assert sorted(itertools.chain(*rounds)) == list(itertools.combinations(range(hosts), 2))
    assert all(len(set(itertools.chain(*pairs))) == 2 * len(pairs) for pairs in rounds)
    assert len(rounds) == (hosts - 1 + hosts % 2 if hosts > 1 else 0)
    assert sample(rounds) == rounds


@pytest.mark.parametrize("hosts", [17, 40, 64])
def test_of_many_hosts_a_sample_is_measured_in_which_each_meets_many(hosts):
    rounds = sample(tournament(hosts))
    assert len(rounds) == 15
    counts = [sum(host in pair for pairs in rounds for pair in pairs) for host in range(hosts)]
    assert min(counts) >= 14


@pytest.mark.parametrize("slow", [2, 3])
def test_pairs_of_a_slow_host_are_slow_also_where_they_are_most(slow):
    names = [f"node{number}" for number in range(slow + 1)]
    figures = {pair: 0.3 if slow in pair else 1.0 + pair[0] / 10 for pair in itertools.combinations(range(slow + 1), 2)}
    found = list(judged(figures, names, "gloo"))
    assert [finding.host for finding in found if finding.status == "wrong"] == [
        f"node{i}-node{slow}" for i in range(slow)
    ]
    assert all("GB/s is usual here" in finding.value for finding in found if finding.status == "wrong")


def test_a_pair_without_a_figure_is_wrong_and_says_why():
    (found,) = judged({(0, 1): "node2: Connection refused"}, ["node1", "node2"], "nccl")
    assert (found.status, found.host) == ("wrong", "node1-node2")
    assert "Connection refused" in found.value
    assert "NCCL_SOCKET_IFNAME" in found.fix


GPU = {"index": "0", "name": "H200", "total_mib": 143771, "used_mib": 0, "ecc_errors": 0, "throttled": []}


@pytest.mark.parametrize(
    ("gpus", "value"),
    [
        ([GPU], "1 GPUs for slots=2"),
        ([GPU, {**GPU, "index": "1", "ecc_errors": 3}], "GPU 1: 3 uncorrected ECC errors"),
        ([GPU, {**GPU, "index": "1", "throttled": ["hw_thermal_slowdown"]}], "GPU 1 is slowed down"),
        ([GPU, {**GPU, "index": "1", "used_mib": 71000}], "GPU 1: 71000 of 143771 MiB are in use"),
        ([], "no GPU"),
        (None, "no GPU"),
    ],
)
def test_a_fault_of_a_gpu_is_named(gpus, value):
    answers = {"well": {"gpus": [GPU, GPU]}, "ill": {"gpus": gpus}}
    well, ill = alone.gpus(answers, {"well": 2, "ill": 2})
    assert (well.status, ill.status, ill.host) == ("ok", "wrong", "ill")
    assert value in ill.value
    assert ill.fix


def test_hosts_without_gpus_are_no_fault_and_said():
    (found,) = alone.gpus({"laptop": {"gpus": None}}, {"laptop": 2})
    assert (found.status, found.value) == ("ok", "no GPU: 2 ranks train on the CPU")


def test_a_clock_is_wrong_only_beyond_what_the_round_trip_leaves_open():
    offsets = {"a": (0.4, 0.01), "slow line": (1.9, 2.0), "b": (-7.0, 0.1)}
    assert [finding.status for finding in alone.clocks(offsets)] == ["ok", "ok", "wrong"]


def test_what_most_hosts_have_is_right():
    answers = {name: {"versions": {"timm": v, "torch": "2"}} for name, v in (("a", "1"), ("b", "2"), ("c", "2"))}
    found = list(alone.package_versions(answers))
    assert [finding.status for finding in found] == ["wrong", "ok", "ok"]
    assert found[0].value == "timm 1, where b has 2"
    missing = {"a": {"versions": {"timm": "1"}}, "b": {"versions": {"timm": None}}}
    assert [finding.value for finding in alone.package_versions(missing)] == ["timm 1", "timm is missing"]


def test_a_table_says_once_what_hosts_have_in_common():
    fine = [Finding("disk", f"node{i}", "ok", f"{i} GiB", number=i, unit="GiB free") for i in range(1, 40)]
    table = as_table(
        [*fine, Finding("disk", "node40", "wrong", "0 GiB", "free some")], [f"node{i}" for i in range(1, 41)]
    )
    assert table.splitlines() == [
        "ok     disk  39 hosts  1 to 39 GiB free",
        "WRONG  disk  node40    0 GiB",
        "                       -> free some",
    ]


def test_places_are_those_of_the_configuration():
    words = ["distill", str(ROOT / "configs/demo/swin_v2.yaml"), "data.train={a: 1, b: 2}", "run.folder=runs/x"]
    found = places_of([*words, "probe.train=c", "probe.validation=d"])
    assert found.run_folder == "runs/x"
    assert list(found.data) == [
        ("data.train", "a"),
        ("data.train", "b"),
        ("probe.train", "c"),
        ("probe.validation", "d"),
    ]
    assert places_of([*words, "data.train=synthetic:4"]).data == []
    with pytest.raises(BadInput, match="unknown key"):
        places_of([*words, "data.trian=a"])


def reached(folder: Path, host_commands: dict[str, str]) -> str:
    """A program that stands for ssh: it runs the command here, for some hosts after a change to it."""
    cases = "".join(f"{host}) {command};;\n" for host, command in host_commands.items())
    program = folder / "ssh"
    program.write_text(
        f'#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\ncommand=$3\ncase $2 in\n{cases}esac\nexec sh -c "$command"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.mark.real_start
def test_a_host_without_our_python_and_one_without_an_answer_are_rows(tmp_path):
    """Real starts: which program answers is the question. One host is left, so no link is measured."""
    path = sys.executable.replace("/", "\\/")
    ssh = reached(
        tmp_path,
        {
            "bare": f'command=$(echo "$command" | sed "s/{path}/\\/no\\/python/")',
            "gone": "echo 'ssh: connect to host gone port 22: No route to host' >&2; exit 255",
        },
    )
    hosts = tmp_path / "hosts"
    hosts.write_text("here slots=1\nbare slots=1\ngone slots=1\n")
    command = [sys.executable, "-m", "fd_scale", "launch", "--check", "--json", "--hostfile", str(hosts)]
    environment = {**os.environ, "FD_SCALE_SSH": shlex.quote(ssh), "HF_TOKEN": "hunter2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("fd-scale: not ready to start: ")
    entries = json.loads(done.stdout)["checks"]
    wrong = {entry["host"]: entry for entry in entries if entry["status"] == "wrong"}
    assert set(wrong) == {"bare", "gone"}
    assert wrong["bare"]["check"] == "python"
    assert f"{sys.executable} is not there" in wrong["bare"]["value"]
    assert wrong["gone"]["check"] == "ssh"
    assert "No route to host" in wrong["gone"]["value"]
    versions = next(entry["value"] for entry in entries if entry["check"] == "packages")
    assert all(name in versions for name in PACKAGES)


@pytest.mark.real_start
def test_without_a_hostfile_this_machine_is_checked():
    """A real start: what it imports is said to be little."""
    code = (
        "import sys; from fd_scale.cli import main\n"
        "try: main(['launch', '--check', '--nproc', '2'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is free" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
