"""The sbatch scripts of docker/slurm on a real Slurm of two nodes, with real ranks."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cluster.hosts import Network, wait_until, why_not
from cluster.slurm import ENDED, Slurm, why_no_slurm
from support.helpers import REPOSITORY, tiny_arguments
from tasks.running import SUMMATION, distilled, losses

SCRIPTS = REPOSITORY / "docker/slurm"
ON_CPUS = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=1000", "--time=20", "--signal=B:TERM@60")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", *ON_CPUS)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    """Each test leaves its nodes idle behind."""
    if reason := why_not() or why_no_slurm():
        pytest.skip(reason)
    with Network(tmp_path_factory.mktemp("slurm") / "network", hosts=3) as network:
        yield Slurm(network).start()


@pytest.fixture(scope="module")
def whole(shards, teacher_file) -> dict[int, float]:
    """Losses of the same distillation on two ranks of this machine, which nobody disturbed."""
    return losses(distilled(shards, teacher_file)[0])


@pytest.fixture
def environment() -> dict[str, str]:
    """A shell in which `fd-scale` runs."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'downstream'}",
        "OMP_NUM_THREADS": "1",
    }


def log_of(slurm: Slurm, job: str) -> str:
    path = Path(slurm.facts(job)["StdOut"])
    return path.read_text() if path.exists() else ""


def same(found: Mapping[int, float], expected: Mapping[int, float]) -> bool:
    return found.keys() == expected.keys() and all(
        abs(found[step] - expected[step]) <= SUMMATION * expected[step] for step in expected
    )


@pytest.mark.parametrize("form", ["rank", "node"])
def test_two_nodes_end_with_the_losses_of_one(form, slurm, whole, shards, teacher_file, environment, tmp_path):
    words = tiny_arguments(shards, teacher_file, tmp_path / "run")
    output = f"--output={tmp_path}/%j.out"
    job = slurm.submit(*TWO_NODES, output, SCRIPTS / "train.sbatch", *words, **environment, FD_SCALE_SLURM_FORM=form)
    assert slurm.exit_code(job) == 0, log_of(slurm, job)
    assert same(losses(tmp_path / "run"), whole)
    assert "done" in log_of(slurm, job)


def started(slurm: Slurm, folder: Path, step: int, job: str) -> None:
    """Waits until a run has logged a step, or has come to nothing."""
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: (metrics.exists() and len(metrics.read_text().splitlines()) >= step) or ended(slurm, job), 240)
    assert metrics.exists(), log_of(slurm, job)


def ended(slurm: Slurm, job: str) -> bool:
    return slurm.state(job) in ENDED


@pytest.mark.parametrize("form", ["rank", "node"])
def test_term_saves_and_requeues_and_the_run_ends_as_an_undisturbed_one(
    form, slurm, whole, shards, teacher_file, environment, tmp_path
):
    """TERM to the batch script alone, as `--signal=B:TERM@60` sends it before the time limit."""
    folder = tmp_path / "run"
    words = tiny_arguments(shards, teacher_file, folder)
    output = f"--output={tmp_path}/%j.out"
    job = slurm.submit(*TWO_NODES, output, SCRIPTS / "train.sbatch", *words, **environment, FD_SCALE_SLURM_FORM=form)
    started(slurm, folder, 3, job)
    slurm.ask("scancel", "--batch", "--signal=TERM", job)
    assert slurm.exit_code(job) == 0, log_of(slurm, job)
    assert slurm.restarts(job) == 1
    assert same(losses(folder), whole)
    said = log_of(slurm, job)
    assert "TERM: the time limit is near" in said
    assert "the job is put back into the queue and resumes from step_" in said
    print(said)
