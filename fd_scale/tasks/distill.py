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

from fd_scale.data.loader import DataConfig, TrainingData
from fd_scale.data.view import normalise
from fd_scale.distill.head import StudentWithHead
from fd_scale.distill.loss import LossConfig, smooth_l1_per_image
from fd_scale.distill.target import TargetConfig, TokenMatch, make_target, match_tokens
from fd_scale.models.init import initialise
from fd_scale.models.weights import read_fitting_weights
from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.checkpoint.storage import storage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.deepspeed_config import ParallelConfig, plan_batch, resolve
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.engine import build_sharded, frozen_engine, training_engine
from fd_scale.parallel.ranks import Ranks, together
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.plan import parameters_by_part, table
from fd_scale.stops.preemption import StopRequest
from fd_scale.stops.watchdog import Watchdog
from fd_scale.teachers import Teacher, TeacherConfig, build_teacher
from fd_scale.train.bad_samples import BadSamples
from fd_scale.train.guard import LossGuard
from fd_scale.train.loop import Guards, Run, TrainConfig, train
from fd_scale.train.metrics import Metrics
from fd_scale.train.optimizer import OptimConfig, adamw, parameter_groups
from fd_scale.train.resume import StartConfig, begin
from fd_scale.train.run_folder import RunConfig, RunFolder, say
from fd_scale.train.schedule import ScheduleConfig, make_schedule


@dataclass(frozen=True)
class DistillConfig:
    """What `fd-scale distill` takes. Each part goes to its owner."""

    run: RunConfig
    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    train: TrainConfig
    schedule: ScheduleConfig
    target: TargetConfig = TargetConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    start: StartConfig = StartConfig()
    parallel: ParallelConfig = ParallelConfig()


class DistillTask:
    """The loss of one micro-batch, for `train.loop`."""

    def __init__(self, teacher: Callable[[Tensor], Tensor], pixels: Teacher, match: TokenMatch, config: DistillConfig):
        self.teacher, self.match = teacher, match
        self.mean, self.std = pixels.mean, pixels.std
        self.normalise, self.beta = config.target.normalise, config.loss.beta
        self.dtype = compute_dtype(config.parallel)

    def loss_per_image(self, engine: Any, images: Tensor, keys: Tensor) -> Tensor:
        # Teacher and student see the same normalised view, with the teacher's statistics, as published.
        view = normalise(images, self.mean, self.std).to(self.dtype)  # (B, 3, H, W)
        with torch.no_grad():
            target = make_target(self.teacher(view), self.normalise, self.match)  # (B, T, Ct)
        return smooth_l1_per_image(engine(view, keys), target, self.beta)  # (B,)


def distill(config: DistillConfig, resolved: dict[str, Any], sharding: dict[str, Any], ranks: Ranks) -> Path:
    """Run the job from its newest checkpoint, or from the start. Collective.

    Args:
        resolved: the configuration as plain values, for the run folder.
        sharding: content of the DeepSpeed JSON.

    Returns:
        The run folder.

    Raises:
        BadInput, Retry: see `fd_scale.errors`.
    """
    folder = RunFolder(Path(config.run.folder))
    with together():
        guards = Guards(
            BadSamples(config.data.max_bad_share),
            LossGuard(config.train.spike),
            StopRequest(),
            Watchdog(config.run.watchdog_minutes, folder.stacks(ranks.rank)),
        )
        batch = plan_batch(config.train.global_batch, config.train.micro_batch, ranks.world)
        data = TrainingData(config.data, config.train.seed)
        in_pass = data.order.steps_in_pass(batch.global_batch)
        schedule = make_schedule(config.schedule, batch.global_batch, in_pass)
        teacher = build_teacher(config.teacher, config.data.view.image_size)
        match, build = plan_student(config, teacher)
        fill = _initialiser(build, config.student.weights, config.train.seed)
        if ranks.is_first:
            folder.check(resolved)
    with together():
        if ranks.is_first:
            folder.create(resolved, ranks)
    folder.open_log(ranks.rank)
    say(ranks, f"teacher: {teacher.description}")
    record = {"config": resolved, **_origin(teacher, data)} if ranks.is_first else {}

    engine_config = resolve(sharding, config.parallel, batch, config.optim.clip)
    model = build_sharded(build, fill, engine_config, ranks)
    apply_recompute(model.student, config.parallel.recompute)
    groups = parameter_groups(model, config.optim.weight_decay)
    engine = training_engine(model, adamw(config.optim), groups, engine_config)
    task = DistillTask(_place_teacher(config, teacher, ranks), teacher, match, config)

    state = training_state(engine, ranks)
    ema = ShardedEma(state, config.train.ema_decay) if config.train.ema_decay else None
    place = storage(config.run.checkpoints or folder.checkpoints)
    step, before = begin(state, ema, place, config.start, resolved, record, ranks)
    if "guard" in before:
        guards.loss.restore(before["guard"])
    if step >= schedule.steps:
        say(ranks, f"{folder.folder} is complete at step {step}; nothing to do")
        return folder.folder
    metrics = None
    with together():
        if ranks.is_first:
            folder.forget_after(step)
            metrics = Metrics(config.run, folder, resolved, step)
    batches = partial(
        data.micro_batches,
        rank=ranks.rank,
        global_batch=batch.global_batch,
        micro_batch=batch.micro_batch,
        world=ranks.world,
        pin_memory=ranks.device.type == "cuda",
    )
    with (
        guards.watchdog,
        CheckpointWriter(
            state, ema, place, config.run.keep, ranks, config.run.save_in_background, guards.watchdog.alive
        ) as writer,
    ):
        run = Run(config.run, writer, record, metrics)
        done = train(engine, task, batches, schedule, config.train, run, guards, ranks, step)
        if metrics:
            metrics.close()
    say(ranks, f"{folder.folder}: {done} of {schedule.steps} steps are done and saved")
    return folder.folder


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
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, world)
    length = config.schedule.epochs, config.schedule.steps
    size = config.data.view.image_size
    grid = student.grid(size, size)
    return "\n".join(
        [
            f"student {config.student.name} at {size} px, token map {grid[0]}x{grid[1]}x{student.width}; parameters:",
            table([(name, f"{count:,}") for name, count in parts.items()] + [("total", f"{sum(parts.values()):,}")]),
            f"global batch {batch.global_batch} = {world} ranks x micro-batch {batch.micro_batch}"
            f" x {batch.accumulation} accumulated",
            f"learning rate {config.schedule.base_lr:g} x {batch.global_batch} / 512"
            f" = {config.schedule.base_lr * batch.global_batch / 512:g}",
            f"length {length[0]:g} passes over the data" if length[0] is not None else f"length {length[1]} steps",
        ]
    )


def compute_dtype(parallel: ParallelConfig) -> torch.dtype:
    return torch.bfloat16 if parallel.precision == "bf16" else torch.float32


def _initialiser(build: Callable[[], StudentWithHead], weights: str | None, seed: int) -> Callable[[str, Tensor], None]:
    """Fills a named parameter from the student's rules, or from `weights` where the student starts from a file."""
    with torch.device("meta"):
        rules = build()  # the sharded model's own submodules are hooked; these know the same rules
    given = read_fitting_weights(rules.student, weights) if weights else {}

    def fill(name: str, parameter: Tensor) -> None:
        if name.removeprefix("student.") in given:
            parameter.copy_(given[name.removeprefix("student.")])
        else:
            initialise(rules, name, parameter, seed)

    return fill


def _origin(teacher: Teacher, data: TrainingData) -> dict[str, Any]:
    """What the weights of this run come from; goes into every checkpoint and export."""
    return {
        "teacher": {
            "description": teacher.description,
            "licence": teacher.licence,
            "sha256": teacher.fingerprint(),  # before it is sharded
        },
        "pixels": {"mean": teacher.mean, "std": teacher.std},
        "data": data.fingerprint(),
    }


def _place_teacher(config: DistillConfig, teacher: Teacher, ranks: Ranks) -> nn.Module:
    if config.teacher.sharded:
        return frozen_engine(teacher, config.train.micro_batch, ranks, config.parallel.precision)
    return teacher.to(ranks.device, compute_dtype(config.parallel))
