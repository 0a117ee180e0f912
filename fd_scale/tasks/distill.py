"""Feature distillation (arXiv 2205.14141): a student learns the whitened feature map of a frozen teacher.

one shared view -> teacher (no gradient) -> target
                -> student -> head       -> prediction -> SmoothL1
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.data.loader import Batch
from fd_scale.data.view import normalise
from fd_scale.distill.head import StudentWithHead
from fd_scale.distill.loss import LossConfig, smooth_l1_per_image
from fd_scale.distill.target import TargetConfig, TokenMatch, make_target, match_tokens
from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.parallel.engine import frozen_engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.plan import parameters_by_part, table
from fd_scale.tasks.job import JobConfig, Parts, batch_lines, compute_dtype, initialiser, run_job
from fd_scale.teachers import Teacher, TeacherConfig, build_teacher
from fd_scale.train.loop import Task
from fd_scale.train.optimizer import adamw, parameter_groups


@dataclass(frozen=True, kw_only=True)
class DistillConfig(JobConfig):
    """What `fd-scale distill` takes."""

    teacher: TeacherConfig
    student: StudentConfig
    target: TargetConfig = TargetConfig()
    loss: LossConfig = LossConfig()


class DistillTask(Task):
    """The loss of one micro-batch, for `train.loop`."""

    def __init__(self, teacher: Callable[[Tensor], Tensor], pixels: Teacher, match: TokenMatch, config: DistillConfig):
        self.teacher, self.match = teacher, match
        self.mean, self.std = pixels.mean, pixels.std
        self.normalise, self.beta = config.target.normalise, config.loss.beta
        self.dtype = compute_dtype(config.parallel)

    def loss_per_image(self, engine: Any, batch: Batch) -> Tensor:
        # Teacher and student see the same normalised view, with the teacher's statistics, as published.
        view = normalise(batch.images, self.mean, self.std).to(self.dtype)  # (B, 3, H, W)
        with torch.no_grad():
            target = make_target(self.teacher(view), self.normalise, self.match)  # (B, T, Ct)
        return smooth_l1_per_image(engine(view, batch.keys), target, self.beta)  # (B,)


def distill(config: DistillConfig, resolved: dict[str, Any], sharding: dict[str, Any], ranks: Ranks) -> Path:
    """Run the job; see `run_job`. Collective."""
    return run_job(config, resolved, sharding, ranks, lambda _: _parts(config, ranks))


def plan_student(config: DistillConfig, teacher: Teacher) -> tuple[TokenMatch, Callable[[], StudentWithHead]]:
    """How the student's tokens meet the teacher's, and a maker of the student with its head.

    Raises:
        BadInput: student and teacher do not fit together.
    """
    size = config.data.view.image_size
    with torch.device("meta"):
        shape = build_student(config.student, size)
    match = match_tokens(
        config.target,
        teacher_prefix=teacher.num_prefix_tokens,
        student_prefix=shape.num_prefix_tokens,
        teacher_grid=teacher.grid(size, size),
        student_grid=shape.grid(size, size),
        image_size=size,
    )

    def build() -> StudentWithHead:
        return StudentWithHead(build_student(config.student, size), teacher.width, match.skip_student)

    return match, build


def plan_run(config: DistillConfig, world: int) -> str:
    """Parameters by part, and how `world` ranks cut a global batch, as text. Needs neither GPU nor data."""
    with torch.device("meta"):
        student = build_student(config.student, config.data.view.image_size)
    parts = parameters_by_part(student)
    size = config.data.view.image_size
    grid = student.grid(size, size)
    return "\n".join(
        [
            f"student {config.student.name} at {size} px, token map {grid[0]}x{grid[1]}x{student.width}; parameters:",
            table([(name, f"{count:,}") for name, count in parts.items()] + [("total", f"{sum(parts.values()):,}")]),
            *batch_lines(config, world),
        ]
    )


def _parts(config: DistillConfig, ranks: Ranks) -> Parts:
    teacher = build_teacher(config.teacher, config.data.view.image_size)
    match, build = plan_student(config, teacher)
    return Parts(
        build=build,
        fill=initialiser(build, config.student.weights, config.train.seed),
        groups=partial(parameter_groups, weight_decay=config.optim.weight_decay),
        optimizer=adamw(config.optim),
        place=lambda: DistillTask(_place_teacher(config, teacher, ranks), teacher, match, config),
        origin=lambda: {"teacher": _identity(teacher)},
        notes={"pixels": {"mean": teacher.mean, "std": teacher.std}},
        lines=[f"teacher: {teacher.description}"],
    )


def _identity(teacher: Teacher) -> dict[str, Any]:
    return {
        "description": teacher.description,
        "licence": teacher.licence,
        "sha256": teacher.fingerprint(),  # before it is sharded
    }


def _place_teacher(config: DistillConfig, teacher: Teacher, ranks: Ranks) -> nn.Module:
    if config.teacher.sharded:
        return frozen_engine(teacher, config.train.micro_batch, ranks, config.parallel.precision)
    return teacher.to(ranks.device, compute_dtype(config.parallel))
