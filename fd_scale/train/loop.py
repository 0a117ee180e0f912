"""The training loop, which every task shares.

set the learning rate -> next batch -> loss of the task -> backward -> optimizer step -> evaluate when due -> log when
due -> save when due -> stop when asked

`optimizer_step` is the first half of that line and `train` calls it; before the optimizer runs, the ranks agree that
the loss is fit for it. Leaves out what a batch means (`train.task`) and how a run is put together (`tasks.job`).
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.loader import Batch
from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.engine import Engine, set_learning_rate
from fd_scale.parallel.ranks import Ranks
from fd_scale.stops.preemption import StopRequest
from fd_scale.stops.watchdog import Watchdog
from fd_scale.train.bad_samples import BadSamples
from fd_scale.train.config import RunConfig
from fd_scale.train.guard import LossGuard
from fd_scale.train.metrics import Metrics, ProgressLine, Throughput
from fd_scale.train.own_time import OwnTime
from fd_scale.train.schedule import Schedule
from fd_scale.train.task import Task
from fd_scale.watching.record import RunStatus

log = logging.getLogger("fd_scale")


@dataclass(frozen=True)
class Run:
    """Where a run leaves what it did."""

    config: RunConfig
    writer: CheckpointWriter
    record: dict[str, Any]
    """Goes into every checkpoint: what its weights came from."""
    metrics: Metrics | None
    """On rank 0."""
    average: Callable[[nn.Module], None] | None = None
    """Fills an unsharded model with the moving average of the weights, where the run keeps one. Collective."""
    status: RunStatus | None = None
    """What others see of the run; on rank 0."""


@dataclass(frozen=True)
class Guards:
    """What may end a run before its schedule does."""

    bad_samples: BadSamples
    loss: LossGuard
    stop: StopRequest
    watchdog: Watchdog


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step came to; the same on every rank."""

    learning_rate: float
    """The rate of parameters whose rate is not scaled."""
    loss: float
    """Mean over the global batch, before the optimizer ran."""
    gradient_norm: float
    must_stop: bool
    """A rank was asked to stop."""


def train(
    engine: Engine,
    task: Task,
    batches: Callable[[range], Iterator[Batch]],
    schedule: Schedule,
    plan: BatchPlan,
    seed: int,
    run: Run,
    guards: Guards,
    ranks: Ranks,
    step: int,
) -> int:
    """Train from `step` until the schedule or `run.stop_at` ends, or a stop is asked for. Collective.

    Args:
        batches: steps -> this rank's micro-batches of those steps, in order.
        seed: see `TrainConfig`.
        step: optimizer steps already done.

    Returns:
        The optimizer steps done.

    Raises:
        BadInput: the loss or the gradient is not finite, or one of the guards stops; nothing is saved after that.
    """
    end = schedule.steps if run.config.stop_at is None else min(run.config.stop_at, schedule.steps)
    own_time = OwnTime(ranks.device)
    micro_batches = own_time.waiting(batch.to(ranks.device, seed) for batch in batches(range(step, end)))
    progress = ProgressLine(step, schedule.steps) if ranks.is_first else None
    throughput = Throughput()
    saved, losses_since_save = step, list[float]()

    while step < end:
        with own_time.step():
            result = optimizer_step(
                engine, task, micro_batches, schedule, plan, run.writer, guards, ranks, own_time.forward, step
            )
        step += 1
        _refuse_infinite_gradient(result, step, saved)
        losses_since_save.append(result.loss)
        throughput.add(plan.global_batch)
        if progress:
            progress.advance(result.loss)
        if run.status:
            run.status.advance(step)

        # ---- evaluate when due
        measured: dict[str, float] = {}
        every = run.config.evaluate_every
        if every and (step % every == 0 or step == schedule.steps):
            with throughput.paused():
                measured = task.evaluate(engine, run.average, partial(guards.watchdog.alive, step))

        # ---- log when due
        if step % run.config.log_every == 0 or step == end or measured:
            values = _logged(result, throughput, guards, task, measured)
            own_seconds = own_time.of_all_ranks(ranks)
            if run.metrics and progress:
                run.metrics.log(step, values)
                progress.line(step, values)
            if run.status:
                run.status.log(values, own_seconds, run.writer.newest)

        # ---- save when due
        if step % run.config.save_every == 0 or step == end or result.must_stop:
            guards.watchdog.alive(step)
            if run.metrics:
                run.metrics.sync()
            position = {"step": step, "samples": step * plan.global_batch, "seed": seed}
            record = {**run.record, "position": position, "guard": guards.loss.state()}
            metrics = {"loss": sum(losses_since_save) / len(losses_since_save), **measured}
            run.writer.save(step, record, metrics, last=step == end or result.must_stop)
            saved, losses_since_save = step, []
            throughput.after_save()

        # ---- stop when asked
        if result.must_stop:
            log.info("stopping as asked, after saving step %d", step)
            break
    run.writer.wait()
    if progress:
        progress.close()
    if run.status:
        run.status.end(run.writer.newest)
    return step


def optimizer_step(
    engine: Engine,
    task: Task,
    micro_batches: Iterator[Batch],
    schedule: Schedule,
    plan: BatchPlan,
    writer: CheckpointWriter,
    guards: Guards,
    ranks: Ranks,
    timed: Callable[[], contextlib.AbstractContextManager[None]],
    step: int,
) -> StepResult:
    """Take one optimizer step on the next `plan.accumulation` micro-batches of this rank. Collective.

    Args:
        micro_batches: on the device.
        writer: keeps the moving average of the weights, and knows whether a save failed.
        timed: makes a context for each forward pass.
        step: optimizer steps already done.

    Raises:
        BadInput: the loss is not finite, or one of the guards stops; the weights are from before the step.
    """
    set_learning_rate(engine, partial(schedule.learning_rate, step))
    seen: list[tuple[str, Tensor]] = []
    bad: list[tuple[str, str]] = []
    for micro_step in range(plan.accumulation):
        guards.watchdog.alive(step + 1)
        batch = next(micro_batches)
        with timed():
            losses = task.loss_per_image(engine, batch)  # (B,)
        engine.backward(losses.mean())
        seen += zip(batch.ids, losses.detach(), strict=True)
        bad += batch.bad
        if micro_step == plan.accumulation - 1:
            # Before the optimizer runs, so that bad numbers never reach the weights. Waits for the device.
            loss, must_stop = _judge(seen, bad, plan.global_batch, writer, guards, ranks, step)
        engine.step()
    task.after_step()
    if writer.ema:
        writer.ema.update(step + 1)
    gradient_norm = float(engine.get_global_grad_norm())
    return StepResult(schedule.learning_rate(step), loss, gradient_norm, must_stop)


def _judge(
    seen: list[tuple[str, Tensor]],
    bad: list[tuple[str, str]],
    global_batch: int,
    writer: CheckpointWriter,
    guards: Guards,
    ranks: Ranks,
    step: int,
) -> tuple[float, bool]:
    """Mean loss of the global batch, and whether to stop after this step. Collective.

    Raises:
        BadInput: a loss is not finite, one of the guards stops, or a save failed; on every rank.
    """
    counts = guards.bad_samples.local_counts(bad)
    flags = [guards.stop.asked, writer.failed]
    loss, (must_stop, save_failed), all_counts = _agree(seen, counts, flags, step, global_batch)
    guards.bad_samples.add(all_counts, global_batch)
    guards.loss.check(step + 1, loss, seen, ranks)
    if save_failed:
        writer.wait()  # raises what became of it, on all ranks
    return loss, must_stop


def _refuse_infinite_gradient(result: StepResult, step: int, saved: int) -> None:
    if not math.isfinite(result.gradient_norm):
        raise BadInput(
            f"the gradient norm is {result.gradient_norm} at step {step}; lower schedule.base_lr. The last checkpoint "
            f"(step {saved}) is from before that",
            agreed=True,
        )


def _logged(
    result: StepResult, throughput: Throughput, guards: Guards, task: Task, measured: dict[str, float]
) -> dict[str, float]:
    """The numbers of a logged step, by the names of metrics.jsonl. Collective."""
    return {
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "gradient_norm": result.gradient_norm,
        "images_per_second": throughput.images_per_second(),
        **guards.bad_samples.values(),
        **guards.loss.values(),
        **task.values(),
        **measured,
    }


def _agree(
    seen: list[tuple[str, Tensor]], bad: list[float], flags: list[bool], step: int, global_batch: int
) -> tuple[float, list[bool], list[float]]:
    """Mean loss of the global batch, for each flag whether any rank raised it, sums of `bad` over ranks. Collective.

    Raises:
        BadInput: a loss is not finite, on every rank, with the ids of the images.
    """
    losses = torch.stack([loss for _, loss in seen]).double().cpu()
    total, *sums = process_group.sum_over_ranks([float(losses.sum()), *map(float, flags), *bad])
    if not math.isfinite(total):
        of_this_rank = [
            sample for (sample, _), loss in zip(seen, losses.tolist(), strict=True) if not math.isfinite(loss)
        ]
        everywhere = [sample for part in process_group.gather(of_this_rank) for sample in part]
        shown = ", ".join(everywhere[:8]) + (f" and {len(everywhere) - 8} more" if len(everywhere) > 8 else "")
        raise BadInput(
            f"the loss is {total} at step {step + 1} in samples {shown}; lower schedule.base_lr or look at these "
            f"images. Checkpoints are untouched",
            agreed=True,
        )
    return total / global_batch, [count > 0 for count in sums[: len(flags)]], sums[len(flags) :]
