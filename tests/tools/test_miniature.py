"""The miniature: fair by construction, honest in what it says, and it goes on where it was stopped."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.helpers import REPOSITORY

from experiments.miniature import __main__ as miniature
from experiments.miniature import plan as plans
from experiments.miniature import report, teacher
from experiments.miniature.images import split_images
from experiments.miniature.jobs import Job, run_jobs
from fd_scale.config import load_config
from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.zoo import build_student
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

FORMS = ("smoke", "small", "full")
LABELS = {arm.name: arm.label for arm in plans.ARMS}


def load(form: str, *overrides: str) -> plans.Plan:
    return plans.load_plan(REPOSITORY / f"configs/miniature/{form}.yaml", list(overrides))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 4)):
        for kind, name in enumerate(("blue", "green", "red")):
            for number in range(count):
                path = folder / part / name / f"{number:02d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = random.integers(0, 160, (5, 5, 3), dtype=np.uint8)
                coarse[..., kind] += 90
                Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def words_of(images: Path, out: Path, *words: str) -> list[str]:
    return ["--smoke", "--images", str(images), "--out", str(out), *words]


def run(images: Path, out: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.miniature", *words_of(images, out, *words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=580)


@pytest.fixture
def signals():
    """Whoever runs jobs takes over three signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> tuple[Path, list[subprocess.CompletedProcess]]:
    """An experiment that was stopped once: its time was up before the last stages ran."""
    out = tmp_path_factory.mktemp("miniature") / "out"
    return out, [run(images, out, "--minutes", "0.04"), run(images, out)]


def test_when_the_time_is_up_it_ends_with_0_and_says_what_is_left(finished):
    stopped = finished[1][0]
    assert stopped.returncode == 0, stopped.stderr
    assert re.search(r"\d+ of 11 jobs are left \(.*\); the same command goes on", stopped.stdout)


def test_the_same_command_goes_on_and_reports_every_arm(finished):
    out, (_, done) = finished
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in LABELS.values())
    assert "says nothing about chance" in done.stdout  # of one seed
    assert (out / "table.txt").read_text() in done.stdout
    assert (out / "plot.png").stat().st_size > 5000
    results = json.loads((out / "results.json").read_text())
    assert {name: len(records) for name, records in results["tuning"].items()} == dict.fromkeys(LABELS, 1)
    assert {name: len(records) for name, records in results["measured"].items()} == dict.fromkeys(LABELS, 1)
    assert len((out / "results.csv").read_text().splitlines()) == 1 + len(LABELS)


@pytest.mark.usefixtures("signals")
def test_no_stage_is_computed_twice(finished, images):
    out = finished[0]
    products = [*out.glob("measured/*.json"), *out.glob("students/*"), out / "teacher.safetensors"]
    before = {path: path.stat().st_mtime_ns for path in products}
    assert miniature.miniature(miniature.options_of(words_of(images, out))) == 0
    assert {path: path.stat().st_mtime_ns for path in products} == before


def test_no_image_is_in_two_parts(finished):
    parts = {part: set() for part in ("labelled", "tuning", "test")}
    for part, seen in parts.items():
        files = list((finished[0] / "images" / part).rglob("*.jpg"))
        seen |= {path.read_bytes() for path in files}
        assert len(seen) == len(files) > 0
    assert len(set.union(*parts.values())) == sum(map(len, parts.values()))


@pytest.mark.usefixtures("signals")
def test_jobs_wait_for_what_they_need_and_stop_when_the_time_is_up(tmp_path):
    first, second, never = (tmp_path / name for name in ("first", "second", "never"))
    jobs = [
        Job("second", second, (first,), partial(shutil.copy, first, second)),
        Job("first", first, (), partial(Path.touch, first)),
    ]
    assert run_jobs(jobs, 2, tmp_path / "logs", minutes=None) == []
    assert second.exists()
    sleeper = Job("sleeper", never, (second,), partial(time.sleep, 600))
    assert run_jobs([*jobs, sleeper], 2, tmp_path / "logs", minutes=0.001) == [sleeper]


@pytest.mark.usefixtures("signals")
def test_a_job_that_fails_ends_the_others_with_its_code_and_line(tmp_path, capsys):
    jobs = [
        Job("sleeper", tmp_path / "never", (), partial(time.sleep, 600)),
        Job("broken", tmp_path / "absent", (), partial(Path.mkdir, tmp_path)),
    ]
    with pytest.raises(SystemExit) as ended:
        run_jobs(jobs, 2, tmp_path / "logs", minutes=None)
    assert ended.value.code == 1
    assert re.search(r"broken ended with 1: .*FileExistsError", capsys.readouterr().err)


def test_a_saved_teacher_goes_on_as_if_it_had_not_been(tmp_path):
    plan = load("smoke")
    cpu, grid = torch.device("cpu"), 4
    torch.manual_seed(0)
    learner = teacher.Learner(plan.teacher, teacher.model_kwargs(plan), cpu)
    view = (torch.randn(8, 3, 32, 32), torch.rand(8, grid**2, 2))
    teacher.train_step(learner, plan.teacher, [*view, *view], grid)
    learner.save(tmp_path / "state.pt")
    other = teacher.Learner(plan.teacher, teacher.model_kwargs(plan), cpu)
    other.load(tmp_path / "state.pt", cpu)
    losses = [teacher.train_step(which, plan.teacher, [*view, *view], grid) for which in (learner, other)]
    assert losses[0] == losses[1]
    for name, tensor in learner.query.state_dict().items():
        assert torch.equal(other.query.state_dict()[name], tensor), name


@torch.no_grad()
def test_the_raw_teacher_as_a_student_computes_what_the_teacher_does(finished):
    file = finished[0] / "teacher.safetensors"
    teacher = build_teacher(TeacherConfig(f"file:{file}"), 32)
    student = build_student(StudentConfig("vit_nano", patch_size=8, position_bias="absolute"), 32)
    load_weights(student, file, neutral=True)
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(student.eval()(pixels), teacher(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seeds=2"], "has seeds=1, not 2; give another --out for this plan"),
        (["--ablations", "no_teacher"], "--ablations: no 'no_teacher'; there are absolute_positions,"),
        (["--jobs", "0"], "--jobs 0 --minutes None: give numbers above 0"),
        (["--minutes", "0"], "--minutes 0.0: give numbers above 0"),
        (["images.labeled=3"], "unknown key `images.labeled`; did you mean `images.labelled`?"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(finished, images, words, line):
    with pytest.raises(BadInput, match=re.escape(line)):
        miniature.miniature(miniature.options_of(words_of(images, finished[0], *words)))


def test_images_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(BadInput, match="nowhere does not exist; give an archive or folder of images"):
        miniature.miniature(miniature.options_of(words_of(tmp_path / "nowhere", tmp_path / "out")))


def test_a_folder_of_something_else_is_refused(images):
    with pytest.raises(BadInput, match="holds something else than a miniature; give another --out"):
        miniature.miniature(miniature.options_of(words_of(images, images)))


def test_images_without_the_two_folders_are_refused(images, tmp_path):
    with pytest.raises(BadInput, match="holds 0 classes in train/<class>/; give an archive or folder with 2 or more"):
        split_images(images / "test", load("smoke").images, tmp_path / "out")


def test_other_classes_in_the_test_are_refused(images, tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/c"):
        shutil.copytree(images / "test" / "red", tmp_path / "images" / name)
    with pytest.raises(BadInput, match=r"the classes of train and test differ \(b, c\)"):
        split_images(tmp_path / "images", load("smoke").images, tmp_path / "out")


def test_too_few_images_are_refused_by_the_job_that_splits_them(images, tmp_path):
    done = run(images, tmp_path / "out", "images.labelled=60")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "images.labelled=60 takes 20 images of each of 3 classes, and blue has 12 left" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["scratch_trials=[]"], "trials and 0 scratch_trials; every arm gets the same number"),
        (["distill_seeds=3", "seeds=2"], "distill_seeds=3 is more than seeds=2"),
        (["seeds=0"], "seeds=0; give 1 or more"),
    ],
)
def test_an_unfair_plan_is_refused(overrides, line):
    with pytest.raises(BadInput, match=line):
        load("smoke", *overrides)


@pytest.mark.parametrize("form", FORMS)
def test_every_run_of_a_shipped_plan_is_a_valid_configuration(form):
    plan = load(form)
    for arm in (*plans.ARMS, *plans.ABLATIONS.values()):
        distill = load_config(
            DistillConfig, REPOSITORY / plans.DISTILL, plans.distill_settings(plan, arm, plans.TUNING_SEED)
        )
        for trial in plans.trials_of(plan, arm):
            settings = plans.finetune_settings(plan, arm, trial, 1)
            finetune = load_config(FinetuneJobConfig, REPOSITORY / plans.FINETUNE, settings)
            assert finetune.schedule.base_lr == trial.base_lr
            for config in (distill, finetune):
                build_student(config.student, config.data.view.image_size)


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", ["small", "full"])
def test_every_stage_of_a_larger_plan_runs_with_its_own_settings(form, images, tmp_path):
    """Fewer images, steps, trials and seeds, and smaller batches behind what the plan says of its runs."""
    plan = load(form)
    batch = ("train.global_batch=8", "train.micro_batch=8", "data.workers=0")
    settings = {"distill": (*plan.distill, *batch), "finetune": (*plan.finetune, *batch)}
    overrides = [
        "images={labelled: 24, tuning: 12, unlabelled: 0, test: 12}",
        *("teacher.steps=4", "teacher.batch=8", "teacher.bank=16", "teacher.workers=0", "teacher.save_every=2"),
        *("distill_steps=3", "finetune_steps=2", "seeds=1", "distill_seeds=1"),
        f"trials=[{{base_lr: {plan.trials[0].base_lr}, layer_decay: {plan.trials[0].layer_decay}}}]",
        f"scratch_trials=[{{base_lr: {plan.scratch_trials[0].base_lr}, layer_decay: 1.0}}]",
        *(f"{key}={json.dumps(words)}" for key, words in settings.items()),
    ]
    words = [*(["--small"] if form == "small" else []), "--images", str(images), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.miniature", *words, *overrides],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in LABELS.values())


@pytest.mark.parametrize("form", FORMS)
def test_arms_that_start_from_a_teacher_differ_in_nothing_but_start_and_length(form):
    plan = load(form)
    trial = plan.trials[0]
    teacher, longer, fd = (set(plans.finetune_settings(plan, arm, trial, 1)) for arm in plans.ARMS[1:])
    assert {word.partition("=")[0] for word in teacher ^ longer} == {
        "schedule.steps",
        "schedule.warmup_steps",
        "run.evaluate_every",
    } - ({"schedule.warmup_steps"} if form == "smoke" else set())
    assert teacher ^ fd == {"student.position_bias=absolute", "student.neutral_gaps=true"}


def test_the_longer_control_gets_the_compute_of_the_distillation():
    plan = replace(load("smoke"), distill_steps=300, finetune_steps=100)
    # 300 x (3 + 1) forward passes of distillation are 400 x 3 of fine-tuning.
    assert plans.finetune_steps(plan, plans.LONGER) == 100 + 400
    assert plans.finetune_steps(plan, plans.FD) == 100


def test_every_ablation_changes_one_thing():
    for arm in plans.ABLATIONS.values():
        assert len(arm.distill) + arm.halved == 1


def test_paired_intervals_are_those_of_students_t():
    found = report.paired_difference(("fd", [3.0, 5.0, 4.0]), ("teacher", [2.0, 3.0, 1.0]))
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 * 1.0 / 3**0.5, rel=1e-6)  # t of 2 degrees, sd 1
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([2.0, 2.1, 1.9], "Teacher after FD is better than raw teacher here"),
        ([-2.0, -2.1, -1.9], "Teacher after FD is worse than raw teacher here"),
        ([1.0, -1.0, 0.1], "No difference is shown between teacher after FD and raw teacher"),
        ([3.0], "of one seed, which says nothing about chance"),
    ],
)
def test_the_sentence_says_what_the_interval_does(gaps, words):
    zero = [0.0] * len(gaps)
    assert words in report.verdict(report.paired_difference(("fd", gaps), ("teacher", zero)), LABELS)
