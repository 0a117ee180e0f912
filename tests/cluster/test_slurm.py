"""The sbatch scripts of docker/slurm on a real Slurm of two nodes, with real ranks.

What Slurm does about exit codes is asked with a small program in the place of `fd-scale`, because it takes seconds.
"""

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
CPUS = ("--cpus-per-task=1", "--gpus-per-node=0", "--mem=1000", "--time=20", "--signal=B:TERM@60")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", *CPUS)
ONE_RANK = ("--nodes=1", "--ntasks-per-node=1", *CPUS)
STAND_IN = """\
#!/bin/bash
# fd-scale end CODE CODE ... run.folder=FOLDER: each rank ends with its code; `wait` waits for TERM and ends with 75.
codes=("${@:2}")
code=${codes[SLURM_PROCID]}
if [[ $code == wait ]]; then
    trap 'code=75' TERM
    touch "${!##run.folder=}/waiting.$SLURM_PROCID"
    while [[ $code == wait ]]; do sleep 0.1; done
fi
exit "$code"
"""


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
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'downstream'}:{REPOSITORY / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def stand_in(tmp_path) -> dict[str, str]:
    """A shell in which `fd-scale` is `STAND_IN`, started by rank."""
    program = tmp_path / "bin/fd-scale"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "FD_SCALE_SLURM_FORM": "rank"}


def log_of(slurm: Slurm, job: str) -> str:
    path = Path(slurm.facts(job)["StdOut"])
    return path.read_text() if path.exists() else ""


def same(found: Mapping[int, float], expected: Mapping[int, float]) -> bool:
    return found.keys() == expected.keys() and all(
        abs(found[step] - expected[step]) <= SUMMATION * expected[step] for step in expected
    )


def reached(slurm: Slurm, folder: Path, step: int, job: str) -> None:
    """Waits until a run has logged a step."""
    metrics = folder / "metrics.jsonl"
    wait_until(
        lambda: (metrics.exists() and len(metrics.read_text().splitlines()) >= step) or slurm.state(job) in ENDED, 300
    )
    assert slurm.state(job) == "RUNNING", log_of(slurm, job)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [(("0", "0"), 0), (("75", "2"), 2), (("2", "137"), 2), (("75", "1"), 1), (("134", "75"), 1)],
)
def test_the_code_that_tells_most_ends_the_job_which_is_not_put_back(codes, expected, slurm, stand_in, tmp_path):
    words = ["end", *codes, f"run.folder={tmp_path}"]
    job = slurm.submit(*TWO_NODES, f"--output={tmp_path}/%j.out", SCRIPTS / "train.sbatch", *words, **stand_in)
    assert slurm.exit_code(job) == expected, log_of(slurm, job)
    assert slurm.restarts(job) == 0


def test_a_job_that_makes_no_progress_is_not_put_back_for_ever(slurm, stand_in, tmp_path):
    words = ["end", "75", "75", f"run.folder={tmp_path}"]
    shell = {**stand_in, "FD_SCALE_SLURM_MOST_RESTARTS": "1"}
    job = slurm.submit(*TWO_NODES, f"--output={tmp_path}/%j.out", SCRIPTS / "train.sbatch", *words, **shell)
    assert slurm.exit_code(job) == 75, log_of(slurm, job)
    assert slurm.restarts(job) == 2
    assert "no new checkpoint since 2 starts" in log_of(slurm, job)


def test_a_cancelled_job_saves_and_does_not_come_back(slurm, stand_in, tmp_path):
    words = ["end", "wait", "wait", f"run.folder={tmp_path}"]
    job = slurm.submit(*TWO_NODES, f"--output={tmp_path}/%j.out", SCRIPTS / "train.sbatch", *words, **stand_in)
    wait_until(lambda: all((tmp_path / f"waiting.{rank}").exists() for rank in range(2)))
    slurm.ask("scancel", job)
    wait_until(lambda: slurm.state(job) in ENDED)
    assert slurm.state(job) == "CANCELLED"
    assert slurm.restarts(job) == 0
    assert "is put back" not in log_of(slurm, job)
    print(log_of(slurm, job))
