"""The configuration of training: batch, schedule, optimizer, guards, where a run begins and what it leaves behind.

Imports no torch, so that a configuration is read and refused at once; what the values do is in the modules named here:
`loop`, `schedule`, `optimizer`, `guard`, `resume`, `run_folder`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fd_scale.fields import (
    Count,
    Limit,
    Minutes,
    NotNegative,
    PartialShare,
    Positive,
    PositiveShare,
    Range,
    Rate,
    Seed,
)
from fd_scale.parallel.checkpoint.retention import Retention

JUDGED_FROM = 20  # losses in the window; in the first steps a loss may do anything


@dataclass(frozen=True)
class SpikeConfig:
    ratio: Annotated[float, Range(1, 1e6, above=True)] | None = 5.0
    """A mean loss of a step above so many times the median of the last steps is a spike; null: none ever is."""
    window: Annotated[int, Range(JUDGED_FROM, 1_000_000)] = 100
    """Steps that the median is of."""
    action: Literal["warn", "stop"] = "warn"
    """`stop` ends the run with 2, before the optimizer runs."""


@dataclass(frozen=True)
class TrainConfig:
    global_batch: Count
    """Images of one optimizer step, over all ranks."""
    micro_batch: Count
    """Images that one rank holds at a time."""
    seed: Seed = 0
    """Of initialisation, order, augmentation and drop path."""
    ema_decay: PartialShare | None = None
    """Keep a moving average of the weights, such as 0.9999; `fd-scale export --ema` takes it."""
    spike: SpikeConfig = SpikeConfig()


@dataclass(frozen=True)
class ScheduleConfig:
    """Lengths are in passes over the data (`epochs`) or in steps (`steps`); give one of the two."""

    epochs: Positive | None = None
    steps: Count | None = None
    warmup_epochs: NotNegative | None = None
    warmup_steps: Limit | None = None
    base_lr: Rate = 3e-4
    """For a global batch of 512."""
    warmup_base_lr: Rate = 5e-7
    min_base_lr: Rate = 5e-6


@dataclass(frozen=True)
class OptimConfig:
    """arXiv 2205.14141: AdamW 0.9/0.999, eps 1e-8, decay 0.05, gradient norm clipped at 3."""

    betas: tuple[PartialShare, PartialShare] = (0.9, 0.999)
    eps: PositiveShare = 1e-8
    weight_decay: NotNegative = 0.05
    clip: NotNegative = 3.0


@dataclass(frozen=True)
class RunConfig:
    folder: str
    checkpoints: str | None = None
    """A folder, or a URL such as s3://bucket/run, for the checkpoints; by default a folder in the run's."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    save_in_background: bool = True
    """Training goes on while a checkpoint is written; costs one more copy of it in host memory."""
    keep: Retention = Retention()
    stop_at: Count | None = None
    """End with 0 after this step, saved, as if a signal had asked for it; for queues with a time limit."""
    evaluate_every: Count | None = None
    """Steps between evaluations, where the task has one; the last step is evaluated as well. With
    `keep.best=accuracy keep.best_is=highest` the best checkpoint stays, of the steps that are also saved."""
    log_every: Count = 10
    tensorboard: bool = True
    wandb: str | None = None
    """Project to log to as well; needs the `wandb` extra."""
    mlflow: str | None = None
    """Tracking URI to log to as well; needs the `mlflow` extra."""
    watchdog_minutes: Minutes | None = 8.0
    """Without a sign of life for so long, the ranks write their stacks to `logs` and end with 75. Keep it within eight
    tenths of `parallel.timeout_minutes` (`stops.watchdog` says why), and above the longest save or micro-batch, the
    first one's compilation included. null turns it off, for a debugger."""


@dataclass(frozen=True)
class StartConfig:
    """What a run without checkpoints of its own begins with. Each is a run folder, or a place of checkpoints."""

    fork_from: str | None = None
    """Goes on from there: weights, optimizer, average and step."""
    init_from: str | None = None
    """Takes the weights of student and head alone."""
    step: Count | None = None
    """Of the checkpoint to take there; by default the newest whole one."""
