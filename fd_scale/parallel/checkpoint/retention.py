"""Choice of the checkpoints that stay. Pure: steps and their metrics in, steps out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fd_scale.fields import Count


@dataclass(frozen=True)
class Retention:
    last: Count = 2
    """Number of the newest checkpoints that are kept. With two, one is left when the newest is damaged."""
    every: Count | None = None
    """Interval in steps; checkpoints at its multiples are kept for good."""
    best: str | None = None
    """Metric whose best checkpoint is kept as well."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of that metric is the best."""

    def kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Choose the steps to keep of checkpoints with these metrics, by step."""
        steps = sorted(metrics)
        kept = set(steps[-max(1, self.last) :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        best = self.best_step(metrics)
        return kept if best is None else kept | {best}

    def best_step(self, metrics: Mapping[int, Mapping[str, float]]) -> int | None:
        """Find the step with the best value; the later of two equal ones."""
        sign, name = (-1 if self.best_is == "lowest" else 1), self.best
        having = [(sign * values[name], step) for step, values in metrics.items() if name and name in values]
        return max(having)[1] if having else None
