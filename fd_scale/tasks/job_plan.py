"""What a job is made of and needs, as text: without GPU, data, or weights."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fd_scale.models.classifier import Classifier
from fd_scale.models.swin_v2 import SIZES
from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.parallel.deepspeed_config import plan_batch
from fd_scale.parallel.recompute import read_policy
from fd_scale.plan import GIB, cost, frozen_bytes, parameters_by_part, state_bytes, table
from fd_scale.tasks.distill import DistillConfig, check_teachers, match_teachers, student_with_heads
from fd_scale.tasks.finetune import FinetuneJobConfig, check_recipe, norm_of
from fd_scale.tasks.job import JobConfig, batch_lines, compute_dtype
from fd_scale.teachers import Teacher, outline_teacher

USUAL_CLASSES = 1000
"""ImageNet-1K's, where neither the configuration nor the data say how many."""


def outlines(config: DistillConfig) -> dict[str, Teacher]:
    """The teachers without weights. Raises BadInput."""
    size, logits = config.data.view.image_size, config.target.kind == "logits"
    return {name: outline_teacher(teacher, size, logits) for name, teacher in config.teachers.items()}


def plan_distillation(config: DistillConfig, world: int, stage: int) -> str:
    """Parameters by part, multiply-adds, memory of a rank, and how `world` ranks cut a global batch.

    Args:
        stage: of ZeRO.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights.
    """
    check_teachers(config)
    teachers = outlines(config)
    widths = {name: teacher.width for name, teacher in teachers.items()}
    with torch.device("meta"):
        model = student_with_heads(config, widths, match_teachers(config, teachers))
    frozen = {name: sum(p.numel() for p in teacher.parameters()) for name, teacher in teachers.items()}
    precision = config.parallel.precision
    of_teachers = sum(
        frozen_bytes(frozen[name], world, precision, teacher.sharded) for name, teacher in config.teachers.items()
    )
    others = {"heads": _heads(model), **{f"{name}: {teachers[name].description}": n for name, n in frozen.items()}}
    return _text(config, config.student, model, world, stage, ("heads and teachers", others), {"teachers": of_teachers})


def plan_finetuning(config: FinetuneJobConfig, world: int, stage: int) -> str:
    """As `plan_distillation`, of a classifier for `finetune.classes`, or else for ImageNet-1K's."""
    check_recipe(config)
    classes = config.finetune.classes or USUAL_CLASSES
    with torch.device("meta"):
        student = build_student(config.student, config.data.view.image_size)
        model = Classifier(student, classes, norm_of(config))
    return _text(
        config, config.student, model, world, stage, ("classifier", {f"norm and head of {classes}": _heads(model)}), {}
    )


def _text(
    config: JobConfig,
    student: StudentConfig,
    model: Any,
    world: int,
    stage: int,
    others: tuple[str, dict[str, int]],
    memory_of_others: dict[str, float],
) -> str:
    """`others`: what is beside the student, its title and parameters."""
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, world)
    size, precision = config.data.view.image_size, config.parallel.precision
    parts = parameters_by_part(model.student)
    count = sum(parts.values())
    forward = cost(partial(build_student, _counted(student), size), size, compute_dtype(config.parallel))
    recomputed = read_policy(config.parallel.recompute)[0](forward.kept(batch.micro_batch))
    state = state_bytes(count + _heads(model), stage, world, precision, ema=config.train.ema_decay is not None)
    memory = {
        "weights": state.weights,
        "gradients": state.gradients,
        "optimizer": state.optimizer,
        **memory_of_others,
        f"activations, recompute {config.parallel.recompute}": forward.activation_bytes(batch.micro_batch, recomputed),
    }
    grid = model.student.grid(size, size)
    return "\n".join(
        [
            f"student {student.name} at {size} px, token map {grid[0]}x{grid[1]}x{model.student.width}; parameters:",
            _counts({**parts, "total": count}),
            f"{others[0]}; parameters:",
            _counts(others[1]),
            f"forward pass of the student: {forward.multiply_adds / 1e9:,.1f} G multiply-adds an image",
            f"memory of one rank in GiB (ZeRO-{stage} over {world}, {precision}, micro-batch {batch.micro_batch}):",
            table([(name, f"{bytes / GIB:,.2f}") for name, bytes in {**memory, "total": sum(memory.values())}.items()]),
            *batch_lines(config, world),
        ]
    )


def _heads(model: Any) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("student."))


def _counted(student: StudentConfig) -> StudentConfig:
    """Without drop path, whose draws come from outside, and with attention by torch's own operators: those are counted.

    They keep the matrix of attention here, which fused kernels on a GPU do not: an upper bound.
    """
    student = replace(student, drop_path=0.0)
    return replace(student, attention="sdpa") if student.name in SIZES else student


def _counts(parts: dict[str, int]) -> str:
    return table([(name, f"{count:,}") for name, count in parts.items()])
