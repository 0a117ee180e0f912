"""The training loop. Distillation and everything after it share this page.

One step: learning rate -> micro-batches (loss, backward) -> the ranks agree -> optimizer -> log, save, stop when due.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.data.loader import Batch
from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.engine import set_learning_rate
from fd_scale.parallel.ranks import Ranks
from fd_scale.stops.preemption import StopRequest
from fd_scale.stops.watchdog import Watchdog
from fd_scale.train.bad_samples import BadSamples
from fd_scale.train.config import RunConfig, TrainConfig
from fd_scale.train.guard import LossGuard
from fd_scale.train.metrics import Metrics, Progress
from fd_scale.train.schedule import Schedule

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


@dataclass(frozen=True)
class Guards:
    """What may end a run before its schedule does."""

    bad_samples: BadSamples
    loss: LossGuard
    stop: StopRequest
    watchdog: Watchdog


class Task(ABC):
    """What a batch means."""

    @abstractmethod
    def loss_per_image(self, engine: Any, batch: Batch) -> Tensor:
        """A micro-batch on the device -> (B,) fp32 with a gradient.

        Whatever is random about a sample comes from its key or its place, and nothing from torch's generators, whose
        state depends on the rank and is not kept.
        """

    def evaluate(
        self, engine: Any, average: Callable[[nn.Module], None] | None, alive: Callable[[], None]
    ) -> dict[str, float]:
        """Numbers of the model as it is now, for the log and for keeping the best checkpoint. Collective.

        Args:
            average: see `Run`.
            alive: to be called every so often; a watchdog waits for it.
        """
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What it learns beside the weights, whole and alike on every rank; saved, and resuming writes to it in place.

        A name has no slash.
        """
        return {}

    def prepare(self, images: Callable[[int], Iterator[Tensor]]) -> None:  # noqa: B027  most tasks have nothing to do
        """Before the first step of this start. Collective.

        Args:
            images: n -> this rank's micro-batches of the next n steps, on the device, without training on them.
        """

    def after_step(self) -> None:  # noqa: B027
        """After each optimizer step. Collective."""

    def values(self) -> dict[str, float]:
        """More numbers of the last step to log. Collective."""
        return {}


def train(
    engine: Any,
    task: Task,
    batches: Callable[[range], Iterator[Batch]],
    schedule: Schedule,
    config: TrainConfig,
    run: Run,
    guards: Guards,
    ranks: Ranks,
    step: int,
) -> int:
    """Train from `step` until the schedule or `run.stop_at` ends, or a stop is asked for. Collective.

    Args:
        batches: steps -> this rank's micro-batches of those steps, in order.
        step: optimizer steps already done.

    Returns:
        The optimizer steps done.

    Raises:
        BadInput: the loss or the gradient is not finite, or one of the guards stops; nothing is saved after that.
    """
    accumulation = config.global_batch // (config.micro_batch * ranks.world)
    end = schedule.steps if run.config.stop_at is None else min(run.config.stop_at, schedule.steps)
    stream = batches(range(step, end))
    progress = Progress(step, schedule.steps) if ranks.is_first else None
    saved, images_since, since = step, 0, time.monotonic()
    losses_since: list[float] = []

    while step < end:
        learning_rate = schedule.learning_rate(step)  # of what is not scaled
        set_learning_rate(engine, partial(schedule.learning_rate, step))
        seen: list[tuple[str, Tensor]] = []
        bad: list[tuple[str, str]] = []
        for micro_step in range(accumulation):
            guards.watchdog.alive(step + 1)
            batch = next(stream).to(ranks.device, config.seed)
            losses = task.loss_per_image(engine, batch)
            engine.backward(losses.mean())
            seen += zip(batch.ids, losses.detach(), strict=True)
            bad += batch.bad
            if micro_step == accumulation - 1:
                # Before the optimizer runs, so that bad numbers never reach the weights. Waits for the device.
                own_bad = guards.bad_samples.local_counts(bad)
                own_flags = [guards.stop.asked, run.writer.failed]
                loss, (must_stop, save_failed), all_bad = _agree(seen, own_bad, own_flags, step, config.global_batch)
                guards.bad_samples.add(all_bad, config.global_batch)
                guards.loss.check(step + 1, loss, seen, ranks)
                if save_failed:
                    run.writer.wait()  # raises what became of it, on all ranks
            engine.step()
        task.after_step()
        step += 1
        losses_since.append(loss)
        if run.writer.ema:
            run.writer.ema.update(step)
        images_since += config.global_batch
        gradient_norm = float(engine.get_global_grad_norm())
        if not math.isfinite(gradient_norm):
            raise BadInput(
                f"the gradient norm is {gradient_norm} at step {step}; lower schedule.base_lr. The last checkpoint "
                f"(step {saved}) is from before that",
                agreed=True,
            )
        if progress:
            progress.advance(loss)

        results: dict[str, float] = {}
        every = run.config.evaluate_every
        if every and (step % every == 0 or step == schedule.steps):
            began = time.monotonic()
            results = task.evaluate(engine, run.average, partial(guards.watchdog.alive, step))
            since += time.monotonic() - began

        if step % run.config.log_every == 0 or step == end or results:
            now = time.monotonic()
            values = {
                "loss": loss,
                "learning_rate": learning_rate,
                "gradient_norm": gradient_norm,
                "images_per_second": images_since / (now - since),
                **guards.bad_samples.values(),
                **guards.loss.values(),
                **task.values(),
                **results,
            }
            images_since, since = 0, now
            if run.metrics and progress:
                run.metrics.log(step, values)
                progress.line(step, values)

        if step % run.config.save_every == 0 or step == end or must_stop:
            guards.watchdog.alive(step)
            if run.metrics:
                run.metrics.sync()
            position = {"step": step, "samples": step * config.global_batch, "seed": config.seed}
            record = {**run.record, "position": position, "guard": guards.loss.state()}
            metrics = {"loss": sum(losses_since) / len(losses_since), **results}
            run.writer.save(step, record, metrics, last=step == end or must_stop)
            saved, losses_since = step, []
            since = time.monotonic() if images_since == 0 else since
        if must_stop:
            log.info("stopping as asked, after saving step %d", step)
            break
    run.writer.wait()
    if progress:
        progress.close()
    return step


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
        own = [sample for (sample, _), loss in zip(seen, losses.tolist(), strict=True) if not math.isfinite(loss)]
        everywhere = [sample for part in process_group.gather(own) for sample in part]
        shown = ", ".join(everywhere[:8]) + (f" and {len(everywhere) - 8} more" if len(everywhere) > 8 else "")
        raise BadInput(
            f"the loss is {total} at step {step + 1} in samples {shown}; lower schedule.base_lr or look at these "
            f"images. Checkpoints are untouched",
            agreed=True,
        )
    return total / global_batch, [count > 0 for count in sums[: len(flags)]], sums[len(flags) :]
