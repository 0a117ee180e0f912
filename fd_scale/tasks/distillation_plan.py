"""The plan of a distillation: its student with heads, and its teachers."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fd_scale.memory import RankMemory
from fd_scale.objective.head import StudentWithHeads
from fd_scale.parallel.engine import stage
from fd_scale.tasks.config import DistillConfig
from fd_scale.tasks.distillation import check_teachers, match_teachers, student_with_heads
from fd_scale.tasks.job_memory import job_memory, undropped
from fd_scale.tasks.job_plan import parameters_beside, plan_text
from fd_scale.teachers.sources import outline_teacher
from fd_scale.teachers.teacher import Teacher


def outlines(config: DistillConfig) -> dict[str, Teacher]:
    """Build the teachers without weights. Raises BadInput."""
    check_teachers(config)
    size, logits = config.data.view.image_size, config.target.kind == "logits"
    return {name: outline_teacher(teacher, size, logits) for name, teacher in config.teachers.items()}


def plan_distillation(config: DistillConfig, world: int, sharding: dict[str, Any]) -> str:
    """Write parameters by part, multiply-adds, memory of a rank, and how `world` ranks cut a global batch.

    Args:
        sharding: content of the DeepSpeed JSON.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights.
    """
    teachers = outlines(config)
    model = _student_with_heads(config, teachers)
    frozen = {name: sum(p.numel() for p in teacher.parameters()) for name, teacher in teachers.items()}
    described = {f"{name}: {teachers[name].description}": count for name, count in frozen.items()}
    others = {"heads": parameters_beside(model), **described}
    memory = distillation_memory(config, world, sharding)
    return plan_text(config, config.student, model, world, stage(sharding), ("heads and teachers", others), memory)


def distillation_memory(config: DistillConfig, world: int, sharding: dict[str, Any]) -> RankMemory:
    """Compute the memory of a rank; arguments and errors as in `plan_distillation`."""
    teachers = outlines(config)
    build = partial(_student_with_heads, replace(config, student=undropped(config.student)), teachers)
    frozen = {name: (teacher, config.teachers[name].sharded) for name, teacher in teachers.items()}
    return job_memory(config, sharding, world, build, teachers=frozen)


def _student_with_heads(config: DistillConfig, teachers: dict[str, Teacher]) -> StudentWithHeads:
    """On the meta device."""
    widths = {name: teacher.width for name, teacher in teachers.items()}
    with torch.device("meta"):
        return student_with_heads(config, widths, match_teachers(config, teachers))
