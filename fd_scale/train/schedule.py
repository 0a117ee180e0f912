"""The learning rate as a pure function of the step: linear warm-up to the peak, then half a cosine to the minimum.

As the released FD code does it (timm's CosineLRScheduler per step): base, warm-up and minimum rates are all scaled by
global batch / 512. Its loops set the rate after each step, so they use that of the step before; ours is the step's own.
"""

import math
from dataclasses import dataclass

from fd_scale.errors import BadInput
from fd_scale.train.config import ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    steps: int
    warmup_steps: int
    peak: float
    warmup_start: float
    minimum: float

    def learning_rate(self, step: int, scale: float = 1.0) -> float:
        """Learning rate of the step counted from 0.

        Args:
            scale: of a layer whose rate decays; as published, it lowers the peak, not where the curve starts and ends.
        """
        peak = scale * self.peak
        if step < self.warmup_steps:
            return self.warmup_start + step * (peak - self.warmup_start) / self.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * (step - self.warmup_steps) / (self.steps - self.warmup_steps)))
        return self.minimum + (peak - self.minimum) * cosine


def make_schedule(config: ScheduleConfig, global_batch: int, steps_in_pass: int) -> Schedule:
    """Turn passes into steps and base rates into rates.

    Raises:
        BadInput: length or warm-up given twice or not at all, or a warm-up as long as the run.
    """
    steps = _length("schedule", config.epochs, config.steps, steps_in_pass)
    warmup = _length("schedule.warmup", config.warmup_epochs, config.warmup_steps, steps_in_pass, default=0)
    if not 0 <= warmup < steps:
        raise BadInput(f"schedule: a warm-up of {warmup} steps does not fit into {steps} steps; shorten the warm-up")
    scale = global_batch / 512
    return Schedule(steps, warmup, config.base_lr * scale, config.warmup_base_lr * scale, config.min_base_lr * scale)


def _length(where: str, epochs: float | None, steps: int | None, in_pass: int, default: int | None = None) -> int:
    joint = "." if where == "schedule" else "_"
    if epochs is not None and steps is not None:
        raise BadInput(f"{where}{joint}epochs={epochs} and {where}{joint}steps={steps} contradict; set one to null")
    if steps is not None:
        return steps
    if epochs is not None:
        return round(epochs * in_pass)
    if default is None:
        raise BadInput(f"the run has no length; set {where}{joint}epochs or {where}{joint}steps")
    return default
