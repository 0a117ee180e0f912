"""Guard against loss spikes: a step whose loss is far above that of the last steps.

It warns, or stops before the weights are touched.

The judgement is a pure function of the losses so far. Those are sums over ranks, so every rank judges alike without
asking, and a resumed run judges as an undisturbed one once it has the `state` that was saved. Leaves out: losses that
are not finite, which always stop the run (`train.loop`), and skipping the step or rewinding, which would change what a
run computes by a threshold that nobody has tuned.
"""

import logging
import statistics
import sys
from collections import deque
from typing import Any

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.ranks import Ranks
from fd_scale.train.config import JUDGED_FROM, SpikeConfig

log = logging.getLogger("fd_scale")

SHOWN = 4  # samples


class LossGuard:
    """Guard with the losses so far; the same on every rank.

    Raises:
        BadInput: a ratio or a window that cannot tell a spike.
    """

    def __init__(self, config: SpikeConfig):
        if config.ratio is not None and not config.ratio > 1:
            raise BadInput(f"train.spike.ratio={config.ratio:g} finds a spike in every step; give more than 1, or null")
        if config.window < JUDGED_FROM:
            raise BadInput(f"train.spike.window={config.window} is too short for a median; give {JUDGED_FROM} or more")
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._spikes = 0

    def judge(self, loss: float) -> float | None:
        """Judge a step's loss and remember it.

        Returns the median that the loss is too far above, or None.

        Spikes join the window as well, so a lasting rise is reported for half a window and not for ever. A median
        that is not positive says nothing of scale and judges nothing.
        """
        median = statistics.median(self._losses) if len(self._losses) >= JUDGED_FROM else 0.0
        self._losses.append(loss)
        if self.config.ratio is None or median <= 0 or loss <= self.config.ratio * median:
            return None
        self._spikes += 1
        return median

    def check(self, step: int, loss: float, seen: list[tuple[str, Tensor]], ranks: Ranks) -> None:
        """Judge the loss of `step` and react. Collective where it is a spike, for the samples to blame.

        Args:
            seen: this rank's images of the step, (id, loss).

        Raises:
            BadInput: it is a spike and the action is `stop`, on every rank.
        """
        median = self.judge(loss)
        if median is None:
            return
        of_this_rank = sorted(((float(value), sample) for sample, value in seen), reverse=True)[:SHOWN]
        largest = sorted((entry for part in process_group.gather(of_this_rank) for entry in part), reverse=True)[:SHOWN]
        shown = ", ".join(f"{sample} ({value:.4g})" for value, sample in largest)
        line = (
            f"the loss spikes at step {step}: {loss:.4g}, where the median of the steps before is {median:.4g}; "
            f"largest in samples {shown}"
        )
        if self.config.action == "stop":
            raise BadInput(
                f"{line}. Weights and checkpoints are from before it: look at these samples, and go on with a higher "
                f"train.spike.ratio than {self.config.ratio:g} or train.spike.action=warn, or start anew with a lower "
                f"schedule.base_lr",
                agreed=True,
            )
        log.warning(line)
        if ranks.is_first:
            print(f"warning: {line}", file=sys.stderr)

    def values(self) -> dict[str, float]:
        """Metrics: spikes since the run began."""
        return {"loss_spikes": float(self._spikes)}

    def state(self) -> dict[str, Any]:
        """State that a resumed run needs to judge alike; plain JSON, in which floats keep every bit."""
        return {"losses": list(self._losses), "spikes": self._spikes}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`; of a longer window the newest losses."""
        self._losses = deque(state["losses"], maxlen=self.config.window)
        self._spikes = state["spikes"]
