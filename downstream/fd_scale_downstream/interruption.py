"""Stops and resumed starts in mmengine's loops, so that an interrupted run becomes what an undisturbed one is.

A stop request on any rank (SIGTERM, Ctrl-C): all ranks finish the iteration, save, and `FDRunner.train` returns. Hangs
are the watchdog's (`fd_scale.stops`), which `FDStrategy` holds and `EngineModel` gives the signs of life. Left out: a
request during a validation waits for its end, because ranks agree in steps; an epoch-based loop saves amid an epoch and
then begins that epoch again, because mmengine cannot enter one in the middle.
"""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop


class Stopped(Exception):
    """Leaves a loop, whatever its kind and whatever would follow; the training is saved."""


class InterruptionHook(Hook):
    priority = "LOWEST"  # after the schedulers, and after CheckpointHook, which may save this very step

    def before_train(self, runner: Any) -> None:
        """Checkpoints are from before the validation of their step, so a resumed run has to do it.

        Otherwise a run killed while it validates would never report that step, and "the best so far" would be older
        than the best that was kept.
        """
        if runner.iter > 0 and validation_is_due(runner.train_loop, runner.val_loop):
            runner.val_loop.run()
            runner.strategy.watchdog.rest()  # the loop passes by the data of the steps that are done

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Raises: Stopped, on all ranks."""
        if runner.model.must_stop:
            if runner.strategy.saved != runner.strategy.steps:
                runner.save_checkpoint(runner.work_dir, f"iter_{runner.strategy.steps}", by_epoch=False)
            raise Stopped


def work_is_left(runner: Any) -> bool:
    """Whether a resumed start would do anything: train, or validate what is trained."""
    return runner.iter < runner.max_iters or validation_is_due(runner.train_loop, runner.val_loop)


def validation_is_due(loop: Any, val_loop: Any) -> bool:
    """Whether an iteration-based loop validates when it has done as many iterations as now."""
    if val_loop is None or not isinstance(loop, IterBasedTrainLoop) or loop.iter < loop.val_begin:
        return False
    loop._decide_current_val_interval()
    return loop.iter % loop.val_interval == 0 or loop.iter == loop.max_iters
