"""What a job is made of and needs, as text: without GPU, data, or weights."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fd_scale.memory import RankMemory, Terms
from fd_scale.models.classifier import Classifier
from fd_scale.models.config import StudentConfig
from fd_scale.models.families import family_of
from fd_scale.models.zoo import build_student
from fd_scale.parallel.deepspeed_config import plan_batch
from fd_scale.parallel.engine import stage
from fd_scale.plan import GIB, multiply_adds, parameters_by_part, table
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig, JobConfig
from fd_scale.tasks.distillation import check_teachers, match_teachers, student_with_heads
from fd_scale.tasks.finetuning import check_recipe, norm_of
from fd_scale.tasks.job import batch_lines, compute_dtype
from fd_scale.tasks.job_memory import job_memory, undropped
from fd_scale.teachers.sources import outline_teacher
from fd_scale.teachers.teacher import Teacher

USUAL_CLASSES = 1000
"""ImageNet-1K's, where neither the configuration nor the data say how many."""


def outlines(config: DistillConfig) -> dict[str, Teacher]:
    """The teachers without weights. Raises BadInput."""
    check_teachers(config)
    size, logits = config.data.view.image_size, config.target.kind == "logits"
    return {name: outline_teacher(teacher, size, logits) for name, teacher in config.teachers.items()}


def plan_distillation(config: DistillConfig, world: int, sharding: dict[str, Any]) -> str:
    """Parameters by part, multiply-adds, memory of a rank, and how `world` ranks cut a global batch.

    Args:
        sharding: content of the DeepSpeed JSON.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights.
    """
    teachers = outlines(config)
    model = _student_with_heads(config, teachers)
    frozen = {name: sum(p.numel() for p in teacher.parameters()) for name, teacher in teachers.items()}
    others = {"heads": _heads(model), **{f"{name}: {teachers[name].description}": n for name, n in frozen.items()}}
    memory = distillation_memory(config, world, sharding)
    return _text(config, config.student, model, world, stage(sharding), ("heads and teachers", others), memory)


def distillation_memory(config: DistillConfig, world: int, sharding: dict[str, Any]) -> RankMemory:
    """Memory of a rank; arguments and errors as in `plan_distillation`."""
    teachers = outlines(config)
    build = partial(_student_with_heads, replace(config, student=undropped(config.student)), teachers)
    frozen = {name: (teacher, config.teachers[name].sharded) for name, teacher in teachers.items()}
    return job_memory(config, sharding, world, build, teachers=frozen)


def plan_finetuning(config: FinetuneJobConfig, world: int, sharding: dict[str, Any]) -> str:
    """As `plan_distillation`, of a classifier for `finetune.classes`, or else for ImageNet-1K's."""
    model = _classifier(config, config.student)
    memory = finetuning_memory(config, world, sharding)
    others = {f"norm and head of {model.head.out_features}": _heads(model)}
    return _text(config, config.student, model, world, stage(sharding), ("classifier", others), memory)


def finetuning_memory(config: FinetuneJobConfig, world: int, sharding: dict[str, Any]) -> RankMemory:
    """As `distillation_memory`."""
    build = partial(_classifier, config, undropped(config.student))
    return job_memory(config, sharding, world, build, config.finetune.layer_decay)


def _student_with_heads(config: DistillConfig, teachers: dict[str, Teacher]) -> Any:
    """On the meta device."""
    widths = {name: teacher.width for name, teacher in teachers.items()}
    with torch.device("meta"):
        return student_with_heads(config, widths, match_teachers(config, teachers))


def _classifier(config: FinetuneJobConfig, student: StudentConfig) -> Classifier:
    """On the meta device."""
    check_recipe(config)
    classes = config.finetune.classes or USUAL_CLASSES
    with torch.device("meta"):
        return Classifier(build_student(student, config.data.view.image_size), classes, norm_of(config))


def _text(
    config: JobConfig,
    student: StudentConfig,
    model: Any,
    world: int,
    stage: int,
    others: tuple[str, dict[str, int]],
    memory: RankMemory,
) -> str:
    """`others`: what is beside the student, its title and parameters."""
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, world)
    size, precision = config.data.view.image_size, config.parallel.precision
    parts = parameters_by_part(model.student)
    count = sum(parts.values())
    cost = multiply_adds(partial(build_student, _counted(student), size), size, compute_dtype(config.parallel))
    grid = model.student.grid(size, size)
    return "\n".join(
        [
            f"student {student.name} at {size} px, token map {grid[0]}x{grid[1]}x{model.student.width}; parameters:",
            _counts({**parts, "total": count}),
            f"{others[0]}; parameters:",
            _counts(others[1]),
            f"forward pass of the student: {cost / 1e9:,.1f} G multiply-adds an image",
            f"memory of one rank in GiB (ZeRO-{stage} over {world}, {precision}, micro-batch {batch.micro_batch}, "
            f"recompute {config.parallel.recompute}):",
            _memory(memory),
            *batch_lines(config, world),
        ]
    )


def _memory(memory: RankMemory) -> str:
    """The steady terms, those of the peak, and what comes on top on a CPU."""
    peak, on_cpu = memory.peak_phase, memory.cpu_phase
    more = {name: size for name, size in memory.phases[peak].items() if name not in memory.steady}
    extra = {
        **{f"{name} (host memory)": size for name, size in memory.host.items()},
        **{f"{name} (on a CPU)": size for name, size in memory.cpu_phases.get(on_cpu, {}).items()},
    }
    rows = [
        *_gib(memory.steady),
        ("total, between steps", _figure(sum(memory.steady.values()))),
        *_gib(more),
        (f"peak, in {peak}", _figure(memory.peak)),
        *_gib(extra),
        (f"peak of a rank on a CPU, in {on_cpu}", _figure(memory.peak_on_cpu)),
    ]
    return table(rows)


def _gib(terms: Terms) -> list[tuple[str, str]]:
    return [(name, _figure(size)) for name, size in terms.items()]


def _figure(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _heads(model: Any) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("student."))


def _counted(student: StudentConfig) -> StudentConfig:
    """Without drop path, and computed by operators whose multiply-adds torch counts."""
    return replace(undropped(student), **family_of(student.name).countable)


def _counts(parts: dict[str, int]) -> str:
    return table([(name, f"{count:,}") for name, count in parts.items()])
