"""Real processes that find each other by what Slurm or MPI says."""

import os
import shutil
import subprocess
import sys

import pytest
from support.helpers import tiny_arguments
from tasks.running import in_folder, losses, up_to


def step_of(tasks: int) -> dict[str, str]:
    return {
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
    }


def start_ranks(arguments: list[str], environments: list[dict[str, str]]) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [sys.executable, "-m", "fd_scale", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]


def test_the_tasks_of_a_slurm_step_are_the_ranks_of_one_run(finished, tmp_path):
    whole, arguments = finished
    folder = tmp_path / "run"
    tasks = [{**step_of(2), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    for process in start_ranks([*in_folder(arguments, folder), "run.stop_at=2"], tasks):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert losses(folder) == up_to(2, losses(whole))


def test_what_is_no_number_ends_with_2_in_one_line(shards, teacher_file, tmp_path):
    (process,) = start_ranks(
        tiny_arguments(shards, teacher_file, tmp_path / "run"), [{**step_of(2), "SLURM_PROCID": "abc"}]
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("fd-scale: SLURM_PROCID='abc' in the environment is no number")
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
@pytest.mark.real_start
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no MPI is installed")
def test_a_real_mpirun(finished, tmp_path):
    """Whose children are started by it, and so cannot be warm."""
    whole, arguments = finished
    program = [sys.executable, "-m", "fd_scale", *in_folder(arguments, tmp_path / "run"), "run.stop_at=2"]
    command = ["mpirun", "--oversubscribe", "-n", "2", *program]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "set MASTER_ADDR and MASTER_PORT" in refused.stderr
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 12_000)}
    done = subprocess.run(command, env={**environment, **meeting}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == up_to(2, losses(whole))
