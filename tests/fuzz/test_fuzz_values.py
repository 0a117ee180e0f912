"""Odd values in every field, option and variable of the environment: taken, or refused within the exit contract.

A value is first given to the configuration in this process, which refuses most. What it takes is run for a step by a
process of its own, as a user would. `make test` takes a seeded draw of the table and `make test-all` far more of it;
FD_SCALE_FUZZ_SEED draws another.
"""

import contextlib
import io
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.oracle import Account, Case, tried
from fuzz.values import VALUES, fields_of
from support.helpers import REPOSITORY, tiny_arguments
from support.parts import sweep

from fd_scale.cli import main
from fd_scale.config import load_config
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig

SEED = os.environ.get("FD_SCALE_FUZZ_SEED", "0")
ALONE = {"RANK": None, "WORLD_SIZE": None, "HF_HUB_OFFLINE": "1"}
JOBS = {"distill": DistillConfig, "finetune": FinetuneJobConfig, "knn": ProbeJobConfig, "linear": ProbeJobConfig}
REFUSING_SECONDS = 3.0
TRACKERS = ("run.wandb", "run.mlflow")  # other people's programs, which look for servers
# What takes as long as it is told to.
LONG = ("schedule.steps", "schedule.epochs", "linear.epochs")
TABLE = sorted({(verb, key, value) for verb in JOBS for key in fields_of(JOBS[verb]) for value in VALUES})


def drawn(what: str, part: int) -> random.Random:
    return random.Random(f"{SEED} {what} {part}")


@pytest.fixture
def jobs(shards, teacher_file, tmp_path, monkeypatch) -> dict[str, list[str]]:
    """Arguments of one step of each job, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    size = [f"data.train={shards}", "data.view.image_size=32", "data.workers=0", f"run.folder={tmp_path / 'run'}"]
    steps = ["train.global_batch=8", "train.micro_batch=8", "schedule.steps=1", "schedule.warmup_steps=0"]
    probe = [f"folder={tmp_path / 'run'}", f"probe.model=file:{teacher_file}", "probe.image_size=32", "probe.workers=0"]
    probe += [f"probe.train={shards}", f"probe.validation={shards}", "probe.precision=fp32", "linear.epochs=1"]
    probe += ["linear.batch=16", "linear.warmup_epochs=0", "knn.k=[1]"]
    distill = tiny_arguments(shards, teacher_file, tmp_path / "run")
    return {
        "distill": [*distill, "schedule.steps=1", "schedule.warmup_steps=0", "train.micro_batch=8"],
        "finetune": ["finetune", str(REPOSITORY / "configs/finetune/small.yaml"), *size, *steps],
        "knn": ["knn", str(REPOSITORY / "configs/linear/clip_vit_b16.yaml"), *probe],
        "linear": ["linear", str(REPOSITORY / "configs/linear/clip_vit_b16.yaml"), *probe],
    }


@pytest.mark.parametrize("part", sweep(range(60), [0]))
def test_a_value_is_taken_or_refused_in_one_line(jobs, part):
    account = Account()
    for verb, key, value in drawn("fields", part).sample(TABLE, 100):
        words = [*jobs[verb], f"{key}={value}"]
        case = Case(f"{key}={value[:60]!r}", words)
        began = time.process_time()
        taken, complaint = _offered(verb, words)
        if (took := time.process_time() - began) > REFUSING_SECONDS:
            complaint = f"took {took:.1f} s"
        account.add(case, "taken" if taken else "refused", complaint)
    account.close("values in fields")


def _offered(verb: str, words: list[str]) -> tuple[bool, str | None]:
    """Whether the configuration takes it, and how its refusal breaks the contract."""
    try:
        load_config(JOBS[verb], words[1], words[2:])
    except BadInput:
        pass
    except Exception as error:
        return False, f"raises {error!r}"[:500]
    else:
        return True, None
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(words)
    if ended.value.code != 2 or said.getvalue().count("\n") != 1 or not said.getvalue().startswith("fd-scale: "):
        return False, f"exit {ended.value.code}: {said.getvalue()[-500:]!r}"
    return False, None


@pytest.mark.parametrize("part", sweep(range(50), [0]))
def test_a_run_with_what_was_taken_ends_within_the_contract(jobs, tmp_path, part):
    account = Account()
    for verb, key, value in _taken(jobs, drawn("runs", part), count=3):
        case = Case(f"{key}={value[:60]!r}", [*jobs[verb], f"{key}={value}"], ALONE, tmp_path / "run")
        tried(case, account)
        _emptied(tmp_path)
    account.close("runs with a value")


def _taken(jobs: dict[str, list[str]], draw: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    while count:
        verb, key, value = draw.choice(TABLE)
        if key in TRACKERS or key in LONG:
            continue
        with contextlib.suppress(BadInput):
            load_config(JOBS[verb], jobs[verb][1], [*jobs[verb][2:], f"{key}={value}"])
            count -= 1
            yield verb, key, value


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OF_VARIABLES = [value for value in VALUES if "\0" not in value and len(value) < 1000]


@pytest.mark.parametrize("part", sweep(range(20), [0]))
def test_an_odd_environment_ends_within_the_contract(jobs, part):
    """A job that stops before its first step, and a launcher of hosts."""
    account, draw = Account(), drawn("environment", part)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    Path("hosts").write_text("localhost slots=1\n")
    for _ in range(4):
        variable, value = draw.choice(VARIABLES), draw.choice([None, *OF_VARIABLES])
        words = [*jobs["knn"], "timeout_minutes=0.02", "probe.train=/proc/nowhere"]
        tried(Case(f"{variable}={value}", words, {**alone, variable: value}, must_fail=True), account)
    ssh = draw.choice([*OF_VARIABLES, "true", "false", "echo", "cat /dev/null", "sh -c 'exit 0'", "sh -c 'kill $$'"])
    words = ["launch", "--hostfile", "hosts", "--", "plan", str(REPOSITORY / "configs/demo/swin_v2.yaml")]
    tried(Case(f"FD_SCALE_SSH={ssh!r}", words, {"FD_SCALE_SSH": ssh}, must_fail=True), account)
    account.close("environment")
