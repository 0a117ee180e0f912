"""The configuration of training: batch, schedule, optimizer, guards, where a run begins and what it leaves behind.

Imports no torch, so that a configuration is read and refused at once; what the values do is in the modules named here:
`loop`, `schedule`, `optimizer`, `guard`, `resume`, `run_folder`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fd_scale.fields import (
    Count,
    Limit,
    MayDiffer,
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
    """Factor above the median of the last losses from which the mean loss of a step is a spike; null turns this off."""
    window: Annotated[int, Range(JUDGED_FROM, 1_000_000)] = 100
    """Number of steps that the median is taken of."""
    action: Literal["warn", "stop"] = "warn"
    """What follows on a spike; `stop` ends the run with exit status 2, before the optimizer runs."""


@dataclass(frozen=True)
class TrainConfig:
    global_batch: Count
    """Images of one optimizer step, over all ranks."""
    micro_batch: Annotated[Count, MayDiffer()]
    """Images that one rank holds at a time; gradients accumulate up to `global_batch`."""
    seed: Seed = 0
    """Seed of initialisation, order, augmentation and drop path."""
    ema_decay: PartialShare | None = None
    """Decay of a moving average of the weights, such as 0.9999; null keeps none. `fd-scale export --ema` takes it."""
    spike: Annotated[SpikeConfig, MayDiffer()] = SpikeConfig()
    """What to do about a loss far above the median of the last steps."""


@dataclass(frozen=True)
class ScheduleConfig:
    epochs: Positive | None = None
    """Length of the run in passes over the data. Give either this or `steps`."""
    steps: Count | None = None
    """Length of the run in optimizer steps. Give either this or `epochs`."""
    warmup_epochs: NotNegative | None = None
    """Length of the warm-up in passes over the data. Give at most one of this and `warmup_steps`; without either there
    is no warm-up."""
    warmup_steps: Limit | None = None
    """Length of the warm-up in optimizer steps."""
    base_lr: Rate = 3e-4
    """Peak of the learning rate for a global batch of 512. Like the other rates here it is multiplied by
    `train.global_batch` / 512."""
    warmup_base_lr: Rate = 5e-7
    """Learning rate at which the warm-up starts, for a global batch of 512."""
    min_base_lr: Rate = 5e-6
    """Learning rate at the end of the cosine, for a global batch of 512."""


@dataclass(frozen=True)
class OptimConfig:
    betas: tuple[PartialShare, PartialShare] = (0.9, 0.999)
    """Decay rates of AdamW's two moving averages. The defaults of this section are published (arXiv 2205.14141)."""
    eps: PositiveShare = 1e-8
    """The number that AdamW adds to its denominator."""
    weight_decay: NotNegative = 0.05
    """Weight decay, of all parameters but biases, norms and those that the model exempts."""
    clip: NotNegative = 3.0
    """Largest norm of the gradient over all parameters, to which a larger one is scaled down; 0 turns clipping off."""


@dataclass(frozen=True)
class RunConfig:
    folder: str
    """Folder of the run: its configuration, metrics, logs and, by default, checkpoints. The same folder resumes the
    run."""
    checkpoints: str | None = None
    """Folder, or URL such as s3://bucket/run, of the checkpoints; null puts them into the run's folder."""
    save_every: Count = 1000
    """Number of steps between checkpoints."""
    save_in_background: bool = True
    """Whether training continues while a checkpoint is written, which costs one more copy of it in host memory."""
    keep: Retention = Retention()
    """Which checkpoints are kept."""
    stop_at: Count | None = None
    """Step after which the run saves and ends with exit status 0, as if a signal had asked for it; for queues with a
    time limit."""
    evaluate_every: Count | None = None
    """Number of steps between evaluations, where the task has one; the last step is evaluated as well. With
    `keep.best=accuracy keep.best_is=highest` the best checkpoint stays, of the steps that are also saved."""
    log_every: Count = 10
    """Number of steps between lines of metrics."""
    tensorboard: bool = True
    """Whether metrics are also written as TensorBoard events."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well; needs the `wandb` extra."""
    mlflow: str | None = None
    """Tracking URI of MLflow to log to as well; needs the `mlflow` extra."""
    prometheus_port: Annotated[int, Range(1, 65535)] | None = None
    """Port on which rank 0 serves the run's numbers to Prometheus, at /metrics; null serves none. Needs the
    `prometheus` extra."""
    prometheus_address: str = "127.0.0.1"
    """Address of `prometheus_port`. The default is seen on this host alone; whoever reaches another one can read the
    numbers, for there is no password."""
    watchdog_minutes: Minutes | None = 8.0
    """Time without a sign of life after which the ranks write their stacks to `logs` and end with exit status 75. Keep
    it within eight tenths of `parallel.timeout_minutes` (`fd_scale.stops.watchdog` says why), and above the longest
    save or micro-batch, the compilation during the first one included. null turns it off, for a debugger."""


@dataclass(frozen=True)
class StartConfig:
    fork_from: str | None = None
    """Run folder, or folder or URL of checkpoints, from which a run without checkpoints of its own continues: weights,
    optimizer, average and step."""
    init_from: str | None = None
    """Run folder, or folder or URL of checkpoints, from which a run without checkpoints of its own takes the weights of
    student and head alone."""
    step: Count | None = None
    """Step of the checkpoint to take there; null takes the newest whole one."""
