"""Plan of a job, as text: what it is made of and needs, without GPU, data, or weights.

Each task's own plan brings what differs.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from fd_scale.batch_plan import plan_batch
from fd_scale.memory import RankMemory, Terms
from fd_scale.models.config import StudentConfig
from fd_scale.models.families import family_of
from fd_scale.models.zoo import build_student
from fd_scale.plan import GIB, multiply_adds, parameters_by_part, table
from fd_scale.tasks.config import JobConfig
from fd_scale.tasks.job import batch_lines, compute_dtype
from fd_scale.tasks.job_memory import undropped


def plan_text(
    config: JobConfig,
    student: StudentConfig,
    model: Any,
    world: int,
    stage: int,
    others: tuple[str, dict[str, int]],
    memory: RankMemory,
) -> str:
    """Write the plan of any job.

    Args:
        student: the configuration of `model.student`.
        model: what is trained, on the meta device.
        stage: of ZeRO.
        others: what is beside the student, its title and parameters.
    """
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


def parameters_beside(model: Any) -> int:
    """Count the parameters of what is trained beside the student."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("student."))


def _counted(student: StudentConfig) -> StudentConfig:
    """Without drop path, and computed by operators whose multiply-adds torch counts."""
    return replace(undropped(student), **family_of(student.name).countable)


def _counts(parts: dict[str, int]) -> str:
    return table([(name, f"{count:,}") for name, count in parts.items()])
