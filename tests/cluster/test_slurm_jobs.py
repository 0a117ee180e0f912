"""The sbatch scripts of docker/slurm on a real Slurm of two nodes, with real ranks.

What Slurm does about exit codes is asked with a small program in the place of `fd-scale`, because it takes seconds.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cluster.hosts import Network, wait_until, why_not
from cluster.slurm import ENDED, Slurm, why_no_slurm
from docs.pages import commands
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
    assert "nothing is asked of it from here" in log_of(slurm, job)


def test_what_launch_slurm_writes_is_accepted_and_runs_on_two_nodes(
    slurm, whole, shards, teacher_file, environment, tmp_path
):
    """A launcher a node, undisturbed; in a folder whose name needs quotes."""
    folder = tmp_path / "run of 'two' $HOME"
    options = ["--nodes=2", "--nproc=1", "--time=20", "--sbatch=gpus-per-node=0", f"--sbatch=output={tmp_path}/%j.out"]
    options += ["--sbatch=mem=1000", "--sbatch=cpus-per-task=1"]
    words = ["fd-scale", "launch", "--submit", *options, "--", *tiny_arguments(shards, teacher_file, folder)]
    submitted = slurm.run(words, environment, cwd=REPOSITORY)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.split()[-1]
    script = slurm.ask("scontrol", "write", "batch_script", job, "-")
    tested = slurm.run(["sbatch", "--test-only"], environment, input=script)
    assert tested.returncode == 0, tested.stderr
    assert slurm.exit_code(job) == 0, log_of(slurm, job)
    assert same(losses(folder), whole)


def test_a_mistake_is_not_put_back(slurm, environment, tmp_path):
    words = ["distill", "configs/demo/swin_v2.yaml", f"run.folder={tmp_path / 'run'}", "train.sead=1"]
    job = slurm.submit(*TWO_NODES, f"--output={tmp_path}/%j.out", SCRIPTS / "train.sbatch", *words, **environment)
    assert slurm.exit_code(job) == 2, log_of(slurm, job)
    assert slurm.restarts(job) == 0
    assert "unknown key `train.sead`; did you mean `train.seed`?" in log_of(slurm, job)


@pytest.mark.parametrize("event", ["term", "preempted", "power", "cable"])
def test_an_interrupted_run_is_put_back_and_ends_as_an_undisturbed_one(
    event, slurm, whole, shards, teacher_file, environment, tmp_path
):
    """The script alone gets TERM, as `--signal=B:TERM@60` sends it; a job of a higher tier wants the nodes; node2 loses
    its power, or its network."""
    folder = tmp_path / "run"
    form = "rank" if event in ("term", "power") else "node"
    script = ["--exclusive", f"--output={tmp_path}/%j.out", SCRIPTS / "train.sbatch"]
    words = tiny_arguments(shards, teacher_file, folder)
    job = slurm.submit(*TWO_NODES, *script, *words, **environment, FD_SCALE_SLURM_FORM=form)
    reached(slurm, folder, 3, job)
    lost = slurm.nodes[1]
    began = time.monotonic()
    if event == "term":
        slurm.ask("scancel", "--batch", "--signal=TERM", job)
    elif event == "preempted":
        other = slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    elif event == "power":
        slurm.power_off(lost)
    else:
        lost.cut()
    wait_until(lambda: slurm.restarts(job) == 1 or slurm.state(job) in ENDED, 300)
    print(f"{event}: put back after {time.monotonic() - began:.1f} s")
    if event == "power":
        slurm.power_on(lost)
    elif event == "cable":
        lost.mend()
    assert slurm.exit_code(job) == 0, log_of(slurm, job)
    assert slurm.restarts(job) == 1
    assert same(losses(folder), whole)
    assert "start 1 after the first; newest checkpoint: step_" in log_of(slurm, job)
    if event == "term":
        assert "TERM: the time limit is near" in log_of(slurm, job)
    elif event == "preempted":
        assert slurm.exit_code(other) == 0
    wait_until(lambda: slurm.idle() == len(slurm.nodes), 120)


def test_each_task_of_a_sweep_is_put_back_on_its_own(slurm, whole, shards, teacher_file, environment, tmp_path):
    overrides = tmp_path / "overrides.txt"
    overrides.write_text("data.workers=1\ndata.workers=2 run.keep.last=3\n")
    words = [overrides, *tiny_arguments(shards, teacher_file, tmp_path / "sweep")]
    script = ["--array=1-2", f"--output={tmp_path}/%A_%a.out", SCRIPTS / "sweep.sbatch"]
    array = slurm.submit(*ONE_RANK, *script, *words, **environment)
    first, second = (f"{array}_{task}" for task in (1, 2))
    reached(slurm, tmp_path / "sweep/1", 3, first)
    slurm.ask("scancel", "--batch", "--signal=TERM", first)
    assert slurm.exit_code(first) == 0, log_of(slurm, first)
    assert slurm.exit_code(second) == 0, log_of(slurm, second)
    assert (slurm.restarts(first), slurm.restarts(second)) == (1, 0)
    for task in (1, 2):
        assert same(losses(tmp_path / f"sweep/{task}"), whole)


def test_a_downstream_config_trains_stops_and_resumes_on_two_nodes(slurm, environment, tmp_path):
    pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")
    from downstream.mini_data import write_mini_data
    from downstream.smaller import STEPS, smaller

    instances, maps = write_mini_data(tmp_path / "data")
    shell = {**environment, "COCO_MINI": str(instances), "COCO_MINI_SEMANTIC": str(maps)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COCO_MINI", str(instances))
        patch.setenv("COCO_MINI_SEMANTIC", str(maps))
        config = smaller(REPOSITORY / "downstream/configs/coco_mini/upernet_zero3.py", tmp_path)
    checkpoints = tmp_path / "run/checkpoints"
    script = [f"--output={tmp_path}/%j.out", SCRIPTS / "downstream.sbatch"]
    job = slurm.submit(*TWO_NODES, *script, "train", config, "--work-dir", tmp_path / "run", **shell)
    wait_until(lambda: (checkpoints / "step_00000001").exists() or slurm.state(job) in ENDED, 300)
    slurm.ask("scancel", "--batch", "--signal=TERM", job)
    assert slurm.exit_code(job) == 0, log_of(slurm, job)
    assert slurm.restarts(job) == 1
    assert (checkpoints / f"step_{STEPS:08d}").exists()


def test_slurm_accepts_every_submission_of_the_page(slurm, environment):
    """On two nodes without GPUs, which is all there is here; the other tests run the same scripts."""
    tried = 0
    for words in commands(REPOSITORY / "docs/cluster/slurm.md"):
        if "sbatch" in words:
            place = next(index for index, word in enumerate(words) if word.endswith(".sbatch"))
            words[place:place] = ["--test-only", *TWO_NODES]
            done = slurm.run(words[words.index("sbatch") :], environment, cwd=REPOSITORY)
            assert done.returncode == 0, done.stderr
            tried += 1
    assert tried == 4
