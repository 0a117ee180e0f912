"""FD_SCALE_STOPPED_EXIT=75: a run that a signal stopped before its schedule was done, and that is saved, ends with 75.

Without it such a run ends with 0, which Kubernetes and sbatch scripts take for done and do not start again.
"""

import os

from fd_scale.errors import EXIT_RETRY, BadInput, Retry
from fd_scale.exits import START_AGAIN

STOPPED_EXIT = "FD_SCALE_STOPPED_EXIT"


class StoppedEarly(Retry):
    """All is saved, and the schedule is not done."""


def stop_is_failure() -> bool:
    """Whether a stop is to end with 75.

    Raises:
        BadInput: the variable is neither 0 nor 75.
    """
    value = os.environ.get(STOPPED_EXIT, "").strip() or "0"
    if value not in ("0", str(EXIT_RETRY)):
        raise BadInput(
            f"{STOPPED_EXIT}={value[:40]!r} is neither 0 nor {EXIT_RETRY}: with {EXIT_RETRY} a run that a signal "
            f"stopped before its schedule was done ends with {EXIT_RETRY}, otherwise with 0"
        )
    return value != "0"


def stopped_early(step: int, steps: int) -> StoppedEarly:
    """The error of all ranks alike. `step`: the last one, which is saved, of `steps`."""
    return StoppedEarly(f"stopped by a signal after step {step} of {steps}, which is saved; {START_AGAIN}", agreed=True)
