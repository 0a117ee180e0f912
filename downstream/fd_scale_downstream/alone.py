"""A work folder with one start at a time under MMEngine's plain runner.

`FDStrategy` has a way of its own, which all ranks agree on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from fd_scale.lease import Lease, holding
from fd_scale.parallel.run_lease import LEASE


class LeaseHook(Hook):
    """Hook that saves nothing once another start has taken over the work folder."""

    def __init__(self, lease: Lease):
        self.lease = lease

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        self.lease.check()


@contextmanager
def alone(runner: Any) -> Iterator[None]:
    """Train with no other start in the runner's work folder. Rank 0 asks; its end takes the other ranks along.

    Raises:
        Retry: another start works there.
        BadInput: the work folder cannot be written to.
    """
    if runner.rank != 0:
        yield
        return
    with holding(Lease(Path(runner.work_dir) / LEASE, f"work_dir {runner.work_dir}")) as lease:
        runner.register_hook(LeaseHook(lease))
        yield
