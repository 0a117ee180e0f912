"""Work of the miniature's jobs. Each resumes where an earlier start was stopped, and makes its product last."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.miniature.images import LABELLED, TEST, TUNING, pack_images, split_images
from experiments.miniature.plan import (
    DISTILL,
    FINETUNE,
    TUNING_SEED,
    Arm,
    Plan,
    distill_settings,
    finetune_settings,
    trials_of,
)
from experiments.miniature.teacher import train_teacher
from fd_scale import api
from fd_scale.config import load_config
from fd_scale.files import write_whole
from fd_scale.tasks.config import FinetuneJobConfig


class Paths:
    """Paths of everything in the folder of the experiment."""

    def __init__(self, out: Path):
        self.out = out
        self.images, self.shards, self.logs = out / "images", out / "shards", out / "logs"
        self.packed = self.shards / TEST / "manifest.json"  # packed last
        self.teacher = out / "teacher.safetensors"
        self.teacher_run = out / "runs" / "teacher"

    def student(self, distillation: str, seed: int) -> Path:
        """Path of the student that a distillation made."""
        return self.out / "students" / f"{distillation}_{seed}.safetensors"

    def tuning(self, arm: Arm, trial: int) -> Path:
        """Path of the outcome of a trial."""
        return self.out / "tuning" / f"{arm.name}_{trial}.json"

    def measured(self, arm: Arm, seed: int) -> Path:
        """Path of an arm's outcome on the test images."""
        return self.out / "measured" / f"{arm.name}_{seed}.json"

    def run(self, product: Path) -> Path:
        """Path of the run folder behind a product."""
        return self.out / "runs" / product.parent.name / product.stem


def make_images(source: Path, plan: Plan, paths: Paths) -> None:
    if not paths.images.exists():
        split_images(source, plan.images, paths.images)
    pack_images(paths.images, paths.shards)


def make_teacher(plan: Plan, paths: Paths) -> None:
    train_teacher(plan, paths.images, paths.teacher_run, paths.teacher)


def make_student(plan: Plan, paths: Paths, arm: Arm, seed: int) -> None:
    product = paths.student(arm.distillation, seed)
    settings = [
        *distill_settings(plan, arm, seed),
        f"data.train={paths.shards / LABELLED}",
        f"teacher.spec=file:{paths.teacher}",
    ]
    folder = api.distill(DISTILL, [*settings, f"run.folder={paths.run(product)}"])
    last = _last_entry(folder)
    if last["step"] == _steps(settings):
        api.export(folder, product)


def tune(plan: Plan, paths: Paths, arm: Arm, trial: int) -> None:
    """Run one trial, judged by images that nothing was trained on and that are not those of the test."""
    _finetune(plan, paths, arm, trial, TUNING_SEED, TUNING, paths.tuning(arm, trial))


def measure(plan: Plan, paths: Paths, arm: Arm, seed: int) -> None:
    """Run the arm's best trial with a new seed, and measure it on the test images."""
    _finetune(plan, paths, arm, best_trial(plan, paths, arm), seed, TEST, paths.measured(arm, seed))


def best_trial(plan: Plan, paths: Paths, arm: Arm) -> int:
    """Choose the trial by accuracy on the images held out for tuning; of equal ones that with the lower loss."""
    found = [json.loads(paths.tuning(arm, trial).read_text()) for trial in range(len(trials_of(plan, arm)))]
    return max(range(len(found)), key=lambda trial: (found[trial]["accuracy"], -found[trial]["validation_loss"]))


def _finetune(plan: Plan, paths: Paths, arm: Arm, trial: int, seed: int, part: str, product: Path) -> None:
    settings = [
        *finetune_settings(plan, arm, trials_of(plan, arm)[trial], seed),
        f"data.train={paths.shards / LABELLED}",
        f"finetune.validation={paths.shards / part}",
        f"run.folder={paths.run(product)}",
    ]
    if arm.start != "scratch":
        student = paths.student(arm.distillation, seed % plan.distill_seeds)
        settings.append(f"student.weights={paths.teacher if arm.start == 'teacher' else student}")
    last = _last_entry(api.finetune(FINETUNE, settings))
    if last["step"] == _steps(settings):
        config = load_config(FinetuneJobConfig, FINETUNE, settings)
        record = {
            "arm": arm.name,
            "seed": seed,
            "trial": trial,
            "base_lr": config.schedule.base_lr,
            "layer_decay": config.finetune.layer_decay,
            "steps": config.schedule.steps,
            "images": config.train.global_batch * last["step"],
            "accuracy": last["accuracy"],
            "validation_loss": last["validation_loss"],
        }
        write_whole(product, json.dumps(record, indent=1) + "\n")


def _steps(settings: Sequence[str]) -> int:
    """The last word on it, which is what a run takes."""
    return int([word for word in settings if word.startswith("schedule.steps=")][-1].partition("=")[2])


def _last_entry(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
