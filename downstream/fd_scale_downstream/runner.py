"""FlexibleRunner with resuming that cannot go wrong silently; `runner_type = "FDRunner"` beside `FDStrategy`."""

import json
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.registry import RUNNERS
from mmengine.runner._flexible_runner import FlexibleRunner
from torch.utils.data import DataLoader

from fd_scale.children import EndWithParent, told_of_deaths
from fd_scale.errors import BadInput
from fd_scale.parallel.ranks import barrier
from fd_scale.stops.stopped_exit import stop_is_failure, stopped_early
from fd_scale_downstream.interruption import InterruptionHook, Stopped, work_is_left
from fd_scale_downstream.records import plain
from fd_scale_downstream.shown import HidesSecrets
from fd_scale_downstream.strategy import FDStrategy


class _ToldOfDeaths(DataLoader):
    def __iter__(self) -> Any:
        return told_of_deaths(self, super().__iter__)


@RUNNERS.register_module()
class FDRunner(HidesSecrets, FlexibleRunner):
    strategy: FDStrategy
    _has_loaded: bool

    def train(self) -> Any:
        """Until the schedule ends or a stop is asked for; all is saved when it returns.

        Raises:
            BadInput: a hook that averages weights by itself; the work folder holds checkpoints and nobody said resume.
            Retry: another start works in the work folder; or a stop was asked for with work left, and
                FD_SCALE_STOPPED_EXIT says that this is no success.
        """
        must_say, stopped = stop_is_failure(), False
        if any(isinstance(hook, EMAHook) for hook in self.hooks):
            raise BadInput("EMAHook needs whole weights on every rank; set strategy.ema_decay instead")
        self.register_hook(InterruptionHook())
        with self.strategy.alone(), self.strategy.watchdog, self.strategy.closing:
            try:
                super().train()
            except Stopped:
                self.logger.info(f"stopping as asked, after saving step {self.strategy.steps}")
                self.call_hook("after_run")
                stopped = work_is_left(self)
        if must_say and stopped:
            barrier()  # a launcher gives the others little time once one has failed, and rank 0 closes its files
            raise stopped_early(self.strategy.steps, self.max_iters)
        return self.model

    @staticmethod
    def build_dataloader(*arguments: Any, **options: Any) -> DataLoader:
        """As MMEngine builds it; its workers do not outlive their rank, and their death is one line."""
        loader = FlexibleRunner.build_dataloader(*arguments, **options)
        loader.worker_init_fn = EndWithParent(loader.worker_init_fn)
        loader.__class__ = _ToldOfDeaths  # MMEngine names the class itself
        return loader

    def load_or_resume(self) -> None:
        """The newest whole checkpoint of the work folder where resuming was asked for; never a silent start anew."""
        if self._has_loaded or not hasattr(self.strategy, "state"):  # evaluation alone
            super().load_or_resume()
            return
        self._has_loaded = True
        reader = self.strategy.newest()
        if reader is not None and not self._resume:
            raise BadInput(
                f"{self.strategy.storage()} holds checkpoints up to step {reader.step}; give --resume to go on, or "
                f"another --work-dir",
                agreed=True,
            )
        if reader is None:
            if self._load_from:
                self.load_checkpoint(self._load_from)
            return
        record = self.strategy.resume_from(reader)
        meta = record["meta"]
        self.train_loop._epoch, self.train_loop._iter = meta["epoch"], meta["iter"]
        classes = plain(getattr(self.train_dataloader.dataset, "metainfo", {}))
        if json.dumps(meta.get("dataset_meta")) != json.dumps(classes):
            raise BadInput(f"{self.strategy.storage()} was trained on a data set of other classes", agreed=True)
        for key, value in record["runtime_info"].items():
            if key not in ("cfg", "experiment_name", "dataset_meta"):
                self.message_hub.update_info(key, value)
