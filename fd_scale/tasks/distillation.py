"""Feature distillation (arXiv 2205.14141): a student learns what frozen teachers make of the same view.

one shared view -> teacher (no gradient) -> normalised target
                -> student -> head       -> prediction          -> loss, one for each teacher, weighted and added
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.data.loader import Batch
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.evaluate.features import in_training
from fd_scale.evaluate.training_probe import TrainingProbe, training_probe
from fd_scale.models.precision import cast, fit_buffers
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.objective.loss import check_loss, loss_per_image
from fd_scale.objective.normalise import Normaliser, make_normaliser
from fd_scale.objective.target import TokenMatch, match_tokens, teacher_side
from fd_scale.parallel.engine import Engine, frozen_engine
from fd_scale.parallel.ranks import Ranks, add_over_ranks
from fd_scale.pixels import PIXELS, PixelStatistics
from fd_scale.tasks.config import FIRST, DistillConfig
from fd_scale.tasks.job import Parts, compute_dtype, initialiser, run_job
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.teachers.teacher import Teacher
from fd_scale.train.optimizer import adamw, parameter_groups
from fd_scale.train.task import Task


@dataclass(frozen=True)
class Lesson:
    """One teacher, and what the student is to learn from it."""

    teacher: Callable[[Tensor], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    match: TokenMatch
    normaliser: Normaliser
    weight: float

    @torch.no_grad()
    def tokens(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute the teacher's tokens, not normalised; it sees its own pixel statistics.

        (B, 3, H, W) uint8 -> (B, T, Ct) fp32.
        """
        return teacher_side(self.teacher(normalise(images, self.mean, self.std).to(dtype)), self.match)


class DistillTask(Task):
    """Task of distillation, for `train.loop`: the loss of one micro-batch."""

    def __init__(self, lessons: dict[str, Lesson], config: DistillConfig, ranks: Ranks, probe: TrainingProbe | None):
        self.lessons, self.config, self.ranks, self.probe = lessons, config, ranks, probe
        self.dtype = compute_dtype(config.parallel)
        first = lessons[FIRST]
        self.pixels = pixels_of_student(config, (first.mean, first.std))
        self._sums = torch.zeros(len(lessons), dtype=torch.float64, device=ranks.device)  # of losses of this step
        self._last = self._sums

    def loss_per_image(self, engine: Engine, batch: Batch) -> Tensor:
        images = batch.images  # (B, 3, H, W) uint8
        lessons = self.lessons.values()
        targets = [lesson.normaliser(lesson.tokens(images, self.dtype)) for lesson in lessons]  # (B, T, Ct) each
        # The same view for all, for each in its own statistics.
        predictions = engine(normalise(images, *self.pixels).to(self.dtype), batch.keys)
        losses = [
            loss_per_image(prediction, target, self.config.loss, lesson.match.prefix)
            for prediction, target, lesson in zip(predictions, targets, lessons, strict=True)
        ]  # (B,) each
        self._sums += torch.stack(losses).detach().sum(dim=1, dtype=torch.float64)
        return torch.stack([lesson.weight * loss for lesson, loss in zip(lessons, losses, strict=True)]).sum(dim=0)

    def evaluate(
        self, engine: Engine, average: Callable[[nn.Module], None] | None, alive: Callable[[], None]
    ) -> dict[str, float]:
        if self.probe is None:
            return {}
        with in_training(engine, *self.pixels, self.dtype) as frozen:
            return self.probe.measure(frozen, self.ranks, alive)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{self.config.target.normalise}.{kind}": value
            for name, lesson in self.lessons.items()
            for kind, value in lesson.normaliser.tensors().items()
        }

    def prepare(self, images: Callable[[int], Iterator[Tensor]]) -> None:
        steps = self.config.target.calibration_steps
        for lesson in self.lessons.values():
            if lesson.normaliser.needs_calibration:
                batches = (lesson.tokens(micro, self.dtype) for micro in images(steps))
                observed = lesson.match.observed
                lesson.normaliser.calibrate(steps, batches, add_over_ranks, self.ranks.is_first, observed)

    def after_step(self) -> None:
        self._last, self._sums = self._sums, torch.zeros_like(self._sums)
        for lesson in self.lessons.values():
            lesson.normaliser.advance(add_over_ranks)

    def values(self) -> dict[str, float]:
        if len(self.lessons) == 1:
            return {}  # its loss is the loss
        means = add_over_ranks(self._last.clone()) / self.config.train.global_batch
        return {f"loss/{name}": value for name, value in zip(self.lessons, means.tolist(), strict=True)}


def distill(config: DistillConfig, resolved: dict[str, Any], sharding: dict[str, Any], ranks: Ranks) -> Path:
    """Run the job; see `run_job`. Collective."""
    return run_job(config, resolved, sharding, ranks, lambda _: parts_of(config, ranks))


def parts_of(config: DistillConfig, ranks: Ranks) -> Parts:
    """Build what distillation brings to its job.

    Raises:
        BadInput: student, teachers, target and loss do not fit together.
    """
    check_teachers(config)
    probe = training_probe(config.probe, config.run.evaluate_every, config.data)
    size, logits = config.data.view.image_size, config.target.kind == "logits"
    teachers = {name: build_teacher(teacher, size, logits) for name, teacher in config.teachers.items()}
    matches = match_teachers(config, teachers)
    normalisers = {
        name: make_normaliser(config.target.normalise, teacher.width, ranks.device)
        for name, teacher in teachers.items()
    }
    build = partial(student_with_heads, config, {name: teacher.width for name, teacher in teachers.items()}, matches)

    def make_task() -> DistillTask:
        lessons = {
            name: Lesson(
                _spread_or_cast(config, config.teachers[name], teacher, ranks),
                teacher.mean,
                teacher.std,
                matches[name],
                normalisers[name],
                config.more_teachers[name].weight if name in config.more_teachers else 1.0,
            )
            for name, teacher in teachers.items()
        }
        return DistillTask(lessons, config, ranks, probe)

    mean, std = pixels_of_student(config, (teachers[FIRST].mean, teachers[FIRST].std))
    fill, lines = initialiser(build, config.student, config.data.view.image_size, config.train.seed)
    return Parts(
        build=build,
        fill=fill,
        groups=partial(parameter_groups, weight_decay=config.optim.weight_decay),
        optimizer=adamw(config.optim),
        make_task=make_task,
        origin=lambda: _origin(teachers),
        metrics=("knn",) if probe else (),
        notes={"pixels": {"mean": mean, "std": std}},
        lines=[
            *lines,
            *(f"{name}: {teacher.description}" for name, teacher in teachers.items()),
            *(probe.validation.lines if probe else ()),
        ],
    )


def check_teachers(config: DistillConfig) -> None:
    """Refuse teachers that are seen to be wrong before one is built.

    Raises:
        BadInput: one is.
    """
    for name in config.more_teachers:
        # It names a head and its tensors in checkpoints.
        if not re.fullmatch(r"\w+", name) or name == FIRST or hasattr(nn.ModuleDict, name):
            raise BadInput(
                f"more_teachers.{name}: a teacher cannot be called that; take letters, digits and _, such as dino_b16"
            )


def student_with_heads(
    config: DistillConfig, widths: dict[str, int], matches: dict[str, TokenMatch]
) -> StudentWithHeads:
    """Build the model that is trained. Widths and matches are those of each teacher, by name."""
    more = {name: (widths[name], matches[name]) for name in config.more_teachers}
    student = build_student(config.student, config.data.view.image_size)
    return StudentWithHeads(student, widths[FIRST], matches[FIRST], more)


def pixels_of_student(config: DistillConfig, teacher: PixelStatistics) -> PixelStatistics:
    """Mean and standard deviation by which the student's images are normalised."""
    return teacher if config.student_pixels == "teacher" else PIXELS[config.student_pixels]


def match_teachers(config: DistillConfig, teachers: dict[str, Teacher]) -> dict[str, TokenMatch]:
    """Match the student's tokens with those of each teacher.

    Raises:
        BadInput: student, teachers, target and loss do not fit together.
    """
    size = config.data.view.image_size
    with torch.device("meta"):
        student = build_student(config.student, size)
    matches = {
        name: match_tokens(
            config.target,
            teacher=f"{name}: {teacher.description}",
            teacher_prefix=teacher.num_prefix_tokens,
            student_prefix=student.num_prefix_tokens,
            teacher_grid=teacher.grid(size, size),
            student_grid=student.grid(size, size),
            image_size=size,
        )
        for name, teacher in teachers.items()
    }
    check_loss(config.loss, matches)
    return matches


def _origin(teachers: dict[str, Teacher]) -> dict[str, dict[str, Any]]:
    records = {
        name: {
            "description": teacher.description,
            "licence": teacher.licence,
            "sha256": teacher.fingerprint(),  # before it is sharded
        }
        for name, teacher in teachers.items()
    }
    more = {name: record for name, record in records.items() if name != FIRST}
    return {"teacher": records[FIRST], **({"more_teachers": more} if more else {})}


def _spread_or_cast(config: DistillConfig, teacher_config: TeacherConfig, teacher: Teacher, ranks: Ranks) -> nn.Module:
    dtype = compute_dtype(config.parallel)
    if teacher_config.sharded:
        return frozen_engine(fit_buffers(teacher, dtype), config.train.micro_batch, ranks, config.parallel.precision)
    return cast(teacher, ranks.device, dtype)
