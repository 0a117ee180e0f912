"""How any job is put together; the tasks share this page and bring what differs as `Parts`.

guards, batch plan, data, schedule -> the task's parts -> lease, run folder -> sharded model, engine -> state, average
    -> begin or resume -> loop

Leaves out what a batch means and which loss it has, which tasks know, and the steps themselves (`train.loop`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fd_scale.batch_plan import BatchPlan, plan_batch
from fd_scale.config import differences
from fd_scale.data.loader import TrainingData
from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise
from fd_scale.models.precision import fit_buffers
from fd_scale.models.weights.loading import fitted_weights
from fd_scale.models.zoo import build_student
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.checkpoint.storage import Storage, open_storage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import resolve
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.engine import build_sharded, training_engine
from fd_scale.parallel.evaluation import fill as fill_copy
from fd_scale.parallel.host_memory import keep_little_freed, release_freed
from fd_scale.parallel.ranks import Ranks, barrier, raise_on_all_ranks, say
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.parallel.run_lease import Leases, held_by_first
from fd_scale.redaction import redacted
from fd_scale.stops.preemption import StopRequest
from fd_scale.stops.stopped_exit import stop_is_failure, stopped_early
from fd_scale.stops.watchdog import Watchdog
from fd_scale.tasks.config import JobConfig
from fd_scale.train.bad_samples import BadSamples
from fd_scale.train.guard import LossGuard
from fd_scale.train.loop import Guards, Run, train
from fd_scale.train.metrics import Metrics
from fd_scale.train.resume import begin
from fd_scale.train.run_folder import RunFolder
from fd_scale.train.schedule import Schedule, make_schedule
from fd_scale.train.task import Task
from fd_scale.train.watched import watched
from fd_scale.watching.endpoint import check_endpoint
from fd_scale.watching.failure import failure_logged


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a task brings to its job, once all that can be refused has been."""

    build: Callable[[], Any]
    """Makes the model that is trained. Its backbone is `model.student`: that is recomputed, and exported."""
    fill: Callable[[str, Tensor], None]
    """Fills a named parameter of it, in place."""
    groups: Callable[[Any], list[dict]]
    """Its parameter groups."""
    optimizer: Callable[[list[dict]], torch.optim.Optimizer]
    make_task: Callable[[], Task]
    """Puts what else the task needs on the device. Collective; called after the engine is there."""
    origin: Callable[[], dict[str, dict[str, Any]]] = dict
    """Called on rank 0: what the weights come from, with a sha256 each. A run with another origin is another run."""
    check_begin: Callable[[dict[str, Any], str, bool], list[str]] = lambda record, where, compare: []
    """Called on rank 0 with the record of the checkpoint that the run begins with, what it is called, and whether it is
    the run's own: raises `BadInput` where its tensors mean something else here, or returns what people must be told."""
    metrics: tuple[str, ...] = ()
    """Names of what its evaluations measure, where the run has any."""
    notes: dict[str, Any] = field(default_factory=dict)
    """More for the record of every checkpoint and export."""
    lines: list[str] = field(default_factory=list)
    """Said to the user at the start."""


def run_job(
    config: JobConfig,
    resolved: dict[str, Any],
    sharding: dict[str, Any],
    ranks: Ranks,
    prepare: Callable[[TrainingData], Parts],
    labelled: bool = False,
) -> Path:
    """Run a job from its newest checkpoint, or from the start. Collective.

    Args:
        resolved: the configuration as plain values, for the run folder.
        sharding: content of the DeepSpeed JSON.
        prepare: checks what only the task can check and makes its parts; may raise `BadInput` on any rank.
        labelled: batches carry labels.

    Returns:
        The run folder.

    Raises:
        BadInput, Retry: see `fd_scale.errors`. `StoppedEarly` where a signal stopped it and FD_SCALE_STOPPED_EXIT asks.
    """
    folder = RunFolder(Path(config.run.folder))
    storage = open_storage(config.run.checkpoints or folder.checkpoints)
    with raise_on_all_ranks():
        must_say = stop_is_failure()
        guards = Guards(
            BadSamples(config.data.max_bad_share),
            LossGuard(config.train.spike),
            StopRequest(),
            Watchdog(config.run.watchdog_minutes, folder.stacks(ranks.rank)),
        )
        batch = plan_batch(config.train.global_batch, config.train.micro_batch, ranks.world)
        data = TrainingData(config.data, config.train.seed, labelled)
        data.start_workers(pin_memory=ranks.device.type == "cuda")
        if ranks.device.type == "cpu":
            keep_little_freed()  # after the workers, whose blocks are images that are best used again
        schedule = make_schedule(config.schedule, batch.global_batch, data.order.steps_in_pass(batch.global_batch))
        parts = prepare(data)
        _check_best(config.run.keep.best, ("loss", *parts.metrics))
        if ranks.is_first:
            folder.check(resolved, partial(differences, type(config)))  # before waiting for anyone
            storage.check()
            check_endpoint(config.run.prometheus_port, config.run.prometheus_address)
    keys = "run.folder", "run.checkpoints"
    with (
        held_by_first(
            folder.folder, config.run.checkpoints, *keys, ranks, must_stop=lambda: guards.stop.asked
        ) as leases,
        failure_logged(),
    ):
        start = _Start(config, resolved, sharding, ranks, folder, storage, parts, guards, batch, data, schedule)
        stopped_at = _run_alone(start, leases)
    if must_say and stopped_at is not None:
        barrier()  # a launcher gives the others little time once one has failed, and rank 0 closes trackers and lease
        raise stopped_early(stopped_at, schedule.steps)
    return folder.folder


@dataclass(frozen=True)
class _Start:
    """All that a start knows before it may write to the run folder."""

    config: JobConfig
    resolved: dict[str, Any]
    sharding: dict[str, Any]
    ranks: Ranks
    folder: RunFolder
    storage: Storage
    parts: Parts
    guards: Guards
    batch: BatchPlan
    data: TrainingData
    schedule: Schedule


def _run_alone(start: _Start, leases: Leases) -> int | None:
    """The part of `run_job` that writes to the run folder. Collective. Returns the step after which it was stopped."""
    config, resolved, ranks, folder, storage = start.config, start.resolved, start.ranks, start.folder, start.storage
    parts, guards, schedule = start.parts, start.guards, start.schedule
    compare = partial(differences, type(config))
    with raise_on_all_ranks():
        if ranks.is_first:
            folder.check(resolved, compare)  # whoever had it may have left something else
            folder.create(resolved, ranks)
    folder.open_log(ranks.rank)
    for line in parts.lines:
        say(ranks, line)
    origin = {"data": start.data.fingerprint(), **parts.origin()} if ranks.is_first else {}
    record = redacted({"config": resolved, **origin, **parts.notes})

    engine_config = resolve(start.sharding, config.parallel, start.batch, config.optim.clip)
    model = build_sharded(parts.build, parts.fill, engine_config, ranks)
    fit_buffers(model, compute_dtype(config.parallel))
    apply_recompute(model.student, config.parallel.recompute)
    engine = training_engine(model, parts.optimizer, parts.groups(model), engine_config)
    task = parts.make_task()

    state = training_state(engine, ranks)
    state.of_task = task.tensors()
    ema = ShardedEma(state, config.train.ema_decay) if config.train.ema_decay else None
    step, before = begin(
        state, ema, storage, config.start, resolved, compare, origin, parts.check_begin, parts.fill, ranks
    )
    if "guard" in before:
        guards.loss.restore(before["guard"])
    if step >= schedule.steps:
        say(ranks, f"{folder.folder} is complete at step {step}; nothing to do")
        return None
    release_freed()  # what construction needed
    metrics = None
    with raise_on_all_ranks():
        if ranks.is_first:
            folder.forget_after(step)
            metrics = Metrics(config.run, folder, resolved, step)
    with (
        guards.watchdog,
        CheckpointWriter(
            state, ema, storage, config.run.keep, ranks, config.run.save_in_background, guards.watchdog.alive, leases
        ) as writer,
        watched(config.run, folder, ranks, schedule.steps, step, start.batch.global_batch) as status,
    ):
        average = partial(fill_copy, state=state, ema=ema, ranks=ranks) if ema else None
        run = Run(config.run, writer, record, metrics, average, status)
        batches = partial(start.data.micro_batches, rank=ranks.rank, plan=start.batch)

        def coming(steps: int) -> Iterator[Tensor]:
            for micro in batches(range(step, step + steps)):
                guards.watchdog.alive(step)
                yield micro.images.to(ranks.device)

        task.prepare(coming)
        done = train(engine, task, batches, schedule, start.batch, config.train.seed, run, guards, ranks, step)
        if metrics:
            metrics.close()
    say(ranks, f"{folder.folder}: {done} of {schedule.steps} steps are done and saved")
    return done if done < min(config.run.stop_at or schedule.steps, schedule.steps) else None


def _check_best(best: str | None, measured: tuple[str, ...]) -> None:
    if best is not None and best not in measured:
        raise BadInput(
            f"run.keep.best={best} is never measured in this run, which has {', '.join(measured)}; choose one, "
            f"or null, or ask for an evaluation with run.evaluate_every"
        )


Fill = Callable[[str, Tensor], None]


def initialiser(build: Callable[[], Any], student: StudentConfig, image_size: int, seed: int) -> tuple[Fill, list[str]]:
    """For `Parts.fill`: by the model's rules, or from the weights that `model.student` starts from.

    Returns:
        The filler, and what became of the weights, for people.

    Raises:
        BadInput: the weights do not fit the student.
    """
    with torch.device("meta"):
        rules = build()  # the sharded model's own submodules are hooked; these know the same rules
    given: dict[str, Tensor] = {}
    lines: list[str] = []
    if student.weights:
        with torch.device("meta"):
            outline = build_student(student, image_size)  # whole: a classifier drops the final norm that files have
        fitted = fitted_weights(
            outline,
            student.weights,
            neutral=student.neutral_gaps,
            image_size=image_size,
            key=student.weights_key,
        )
        given, lines = fitted.tensors, [f"student.weights: {fitted.report}"]

    def fill(name: str, parameter: Tensor) -> None:
        if name.startswith("student.") and name.removeprefix("student.") in given:
            parameter.copy_(given[name.removeprefix("student.")])
        else:
            initialise(rules, name, parameter, seed)

    return fill, lines


def compute_dtype(parallel: ParallelConfig) -> torch.dtype:
    """Type in which what runs beside the engine computes."""
    return torch.bfloat16 if parallel.precision == "bf16" else torch.float32


def batch_lines(config: JobConfig, world: int) -> list[str]:
    """How `world` ranks cut a global batch, the rate and the length, for people.

    Raises:
        BadInput: the global batch does not divide.
    """
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, world)
    passes, steps = config.schedule.epochs, config.schedule.steps
    return [
        f"global batch {batch.global_batch} = {world} ranks x micro-batch {batch.micro_batch}"
        f" x {batch.accumulation} accumulated",
        f"learning rate {config.schedule.base_lr:g} x {batch.global_batch} / 512"
        f" = {config.schedule.base_lr * batch.global_batch / 512:g}",
        f"length {passes:g} passes over the data" if passes is not None else f"length {steps} steps",
    ]
