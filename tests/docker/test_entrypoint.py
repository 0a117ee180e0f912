"""What a container runs, by its words and its environment. `cluster/test_image.py` starts real ones."""

import subprocess
from pathlib import Path

import pytest
from support.helpers import REPOSITORY

ENTRYPOINT = REPOSITORY / "docker/entrypoint"
DISTILL = ("distill", "a b.yaml", "run.folder=r")
ALONE = "fd-scale [distill] [a b.yaml] [run.folder=r]"
AS_NODE = "fd-scale [launch] [--] [distill] [a b.yaml] [run.folder=r]"
TRAINER = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a", "PET_NPROC_PER_NODE": "8"}
TASK = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_PROCID": "1"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Stand-ins that say how they were called, in the only folder of PATH."""
    for name in ("fd-scale", "python", "tool"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf %s {name}\nprintf " [%s]" "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "id").symlink_to("/usr/bin/id")
    return tmp_path


def called(programs: Path, words: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        ["/bin/sh", ENTRYPOINT, *words], env={"PATH": str(programs), **environment}, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (DISTILL, {}, ALONE),
        (("fd-scale", *DISTILL), {}, ALONE),
        (DISTILL, TRAINER, AS_NODE),
        (("fd-scale", *DISTILL), TRAINER, AS_NODE),
        (("finetune", "c"), {"PET_NNODES": "2", "JOB_COMPLETION_INDEX": "0"}, "fd-scale [launch] [--] [finetune] [c]"),
        (DISTILL, {"JOB_COMPLETION_INDEX": "3"}, ALONE),  # one of many jobs, each of one machine
        (DISTILL, {**TRAINER, "RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, ALONE),  # below torchrun
        (DISTILL, {**TRAINER, "RANK": "1", "WORLD_SIZE": "2"}, AS_NODE),  # PyTorchJob's RANK is a node's
        (DISTILL, TASK, AS_NODE),
        (DISTILL, {**TASK, "SLURM_STEP_NUM_TASKS": "16"}, ALONE),
        (DISTILL, {"SLURM_NNODES": "2", "SLURM_PROCID": "0"}, ALONE),  # a batch script
        (DISTILL, {**TASK, "SLURM_STEP_NUM_TASKS": "x"}, AS_NODE),  # fd-scale says what is wrong with it
        (DISTILL, {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, ALONE),
        (DISTILL, {**TASK, "PMI_SIZE": "4", "PMI_RANK": "1"}, ALONE),
        (("pack", "x", "y"), TRAINER, "fd-scale [pack] [x] [y]"),
        (("export", "r", "o"), {}, "fd-scale [export] [r] [o]"),  # also a word of the shell
        (("launch", "--nproc", "2", "--", *DISTILL), TRAINER, f"fd-scale [launch] [--nproc] [2] [--] {AS_NODE[23:]}"),
        (("--version",), {}, "fd-scale [--version]"),
        (("fd-scale-downstream", "train", "c"), {}, "python [-m] [fd_scale_downstream] [train] [c]"),
        (
            ("fd-scale-downstream", "train", "c"),
            TRAINER,
            "python [-m] [fd_scale_downstream] [launch] [--] [train] [c]",
        ),
        (("tool", "distill", ""), TRAINER, "tool [distill] []"),
    ],
)
def test_what_is_run(programs, words, environment, expected):
    assert called(programs, words, environment) == (0, expected, "")


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        ((), {}, "nothing to run"),
        (("sshd", "-p"), {}, "sshd takes no arguments, and -p is one"),
        (("sshd",), {}, "/run/secrets/fd_scale_authorized_keys"),
        (("sshd",), {"FD_SCALE_SSH_KEYS": "/nowhere"}, "mount public keys at /nowhere"),
        (("sshd",), {"FD_SCALE_SSH_KEYS": str(ENTRYPOINT), "FD_SCALE_SSH_PORT": "70000"}, "FD_SCALE_SSH_PORT=70000"),
        (("sshd",), {"FD_SCALE_SSH_KEYS": str(ENTRYPOINT), "FD_SCALE_SSH_PORT": "ssh"}, "FD_SCALE_SSH_PORT=ssh"),
    ],
)
def test_wrong_use_is_one_line_and_2(programs, words, environment, line):
    code, output, errors = called(programs, words, environment)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("fd-scale: ")
    assert line in errors


def test_the_exit_code_is_that_of_the_program(programs):
    (programs / "fd-scale").write_text("#!/bin/sh\nexit 75\n")
    assert [called(programs, DISTILL, where)[0] for where in ({}, TRAINER)] == [75, 75]


def test_the_program_takes_the_place_of_the_shell_and_so_gets_its_signals(programs):
    (programs / "fd-scale").write_text("#!/bin/sh\necho $$\n")
    with subprocess.Popen(
        ["/bin/sh", ENTRYPOINT, *DISTILL], env={"PATH": str(programs)}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid
