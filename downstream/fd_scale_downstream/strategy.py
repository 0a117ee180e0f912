"""A strategy for mmengine's FlexibleRunner that trains through `fd_scale.parallel`.

    runner_type = "FDRunner"
    strategy = dict(type="FDStrategy", parallel=dict(deepspeed="deepspeed_configs/zero3.json", precision="bf16"))

ZeRO 1 to 3, bf16, accumulation, clipping, recomputation, a moving average, and our checkpoints: any number of ranks
reads them, damaged ones are passed by. The rest of a config stays as for plain mmengine; batch size, clipping,
optimizer and schedule have their owner there. Left out: several optimizers, compilation, exact data augmentation after
a resume, construction in shards.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine._strategy import BaseStrategy
from mmengine.registry import MODELS, STRATEGIES
from torch import Tensor, nn

from fd_scale.batch_plan import plan_batch
from fd_scale.config import validated
from fd_scale.errors import BadInput
from fd_scale.fields import Count, Minutes, PartialShare, within_ranges
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.loader import find_checkpoint, load_checkpoint
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.retention import Retention
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.checkpoint.storage import CHECKPOINTS, Storage, open_storage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.engine import training_engine
from fd_scale.parallel.evaluation import fill
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.parallel.run_lease import Leases, held_by_first
from fd_scale.parallel.whole_parts import WholeParts
from fd_scale.redaction import redacted, without_secrets
from fd_scale.stops.preemption import StopRequest
from fd_scale.stops.watchdog import Watchdog
from fd_scale_downstream.backbone import FREE_CHOICES, FDBackbone
from fd_scale_downstream.engine_model import EngineModel, EngineOptimWrapper
from fd_scale_downstream.optim_wrapper import of_the_engine
from fd_scale_downstream.precision import compute_in_bf16
from fd_scale_downstream.records import plain, read_state_dict, shipped


@STRATEGIES.register_module()
class FDStrategy(BaseStrategy):
    """Strategy of mmengine that trains in shards, with this library's checkpoints.

    parallel: fields of `fd_scale.parallel.config.ParallelConfig`.
    accumulation: parts that a batch is cut into, to save memory.
    ema_decay: keep a moving average of the weights and evaluate with it.
    checkpoints: a folder or a URL; by default in the work folder.
    keep: fields of `Retention`; the best by a metric is CheckpointHook's `save_best`.
    watchdog_minutes: without a sign of life for so long, ranks write their stacks to the work folder and end with 75.
        Keep it within eight tenths of `parallel.timeout_minutes`; None turns it off. Above the longest step and save.
    """

    model: Any
    _prepared: bool

    @within_ranges
    def __init__(
        self,
        *,
        parallel: dict[str, Any] | None = None,
        accumulation: Count = 1,
        ema_decay: PartialShare | None = None,
        checkpoints: str | None = None,
        keep: dict[str, Any] | None = None,
        watchdog_minutes: Minutes | None = 8.0,
        **kwargs: Any,
    ):
        self.parallel = validated(ParallelConfig, dict(parallel or {}), section="strategy.parallel.")
        self.keep = validated(Retention, dict(keep or {}), section="strategy.keep.")
        if self.keep.best is not None:
            raise BadInput(
                f"strategy.keep.best={self.keep.best}: no metric stands in these checkpoints; set mmengine's "
                f"CheckpointHook.save_best"
            )
        self.accumulation, self.ema_decay, self.checkpoints = accumulation, ema_decay, checkpoints
        self.sharding = read_json(shipped(self.parallel.deepspeed))
        self.leases = Leases()
        """Of the training, while it runs."""
        self.writers: dict[str, CheckpointWriter] = {}
        self.closing = ExitStack()  # waits for the writers
        super().__init__(**kwargs)
        stacks = Path(self.work_dir) / f"rank_{self.ranks.rank:05d}.stacks"
        self.watchdog = Watchdog(watchdog_minutes, stacks, "strategy.watchdog_minutes")

    def _setup_env(self, **kwargs: Any) -> None:
        """Join the process group first; mmengine then finds it there."""
        self.ranks = process_group.start(self.parallel.timeout_minutes)
        super()._setup_env(**{**kwargs, "launcher": "pytorch"})

    def prepare(
        self,
        model: nn.Module | dict,
        *,
        optim_wrapper: dict | None = None,
        param_scheduler: Any = None,
        compile: dict | bool = False,
        dispatch_kwargs: dict | None = None,
    ) -> Any:
        if self._prepared:
            return self._prepared_components()
        if not isinstance(model, dict):
            raise BadInput("FDStrategy builds the model itself, in shards; give the runner its config")
        self.model_config = model
        self.dispatch_kwargs.update(dispatch_kwargs or {})
        if optim_wrapper is None:
            self.model = MODELS.build(model).to(self.ranks.device)
        else:
            self._prepare_training(optim_wrapper)
        if param_scheduler is not None:
            self.param_schedulers = self.build_param_scheduler(param_scheduler, self.optim_wrapper)
        self._prepared = True
        return self._prepared_components()

    def _prepare_training(self, optim_wrapper: dict) -> None:
        stop = StopRequest()
        owned = of_the_engine(optim_wrapper)
        micro_batch, rest = divmod(self.dispatch_kwargs["train_micro_batch_size_per_gpu"], self.accumulation)
        if rest:
            raise BadInput(f"train_dataloader.batch_size does not divide by strategy.accumulation={self.accumulation}")
        total = micro_batch * self.accumulation * self.ranks.world
        config = resolve(self.sharding, self.parallel, plan_batch(total, micro_batch, self.ranks.world), owned.clip)
        model = self._build()
        for module in model.modules():
            if isinstance(module, FDBackbone):
                apply_recompute(module.model, self.parallel.recompute)
        initial: dict[str, Tensor] = {}
        if self.parallel.precision == "bf16":
            compute_in_bf16(model, self.ranks.device.type)
            if self.ranks.is_first:  # the engine replaces these tensors by rounded ones
                initial = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
        wrapper = self.build_optim_wrapper(owned.optim_wrapper, model)
        # All but the backbone runs as the images have it, and not alike on every rank.
        heads = WholeParts([part for name, part in model.named_children() if name != "backbone"])
        engine = training_engine(model, lambda _: wrapper.optimizer, [], heads.fit_bucket(config))
        heads.free(engine)
        self.state = training_state(engine, self.ranks)
        self.state.fill(partial(_copy_from, initial))
        self.ema = ShardedEma(self.state, self.ema_decay) if self.ema_decay else None
        self.steps = self.saved = 0
        self.optim_wrapper = EngineOptimWrapper(wrapper.optimizer, engine)
        self.optim_wrapper.base_param_settings = wrapper.base_param_settings
        self.model = EngineModel(
            engine, heads, self.accumulation, self._copy_to_evaluate, self._after_step, self._alive, stop
        )

    def _build(self) -> nn.Module:
        """Whole on every rank; the engine cuts it.

        Not under `zero.Init`: it makes every constant of a constructor bf16 (anchors), breaks `torch.Tensor(values)`,
        and loses mmengine's initialisation, which walks over a whole model.
        """
        model = MODELS.build(self.model_config)
        model.init_weights()
        return model.to(self.ranks.device)

    def _copy_to_evaluate(self) -> nn.Module:
        with torch.random.fork_rng():
            copy = MODELS.build(self.model_config).to(self.ranks.device)
        fill(copy, self.state, self.ema, self.ranks)
        return copy

    def _after_step(self) -> None:
        self.steps += 1
        if self.ema:
            self.ema.update(self.steps)

    def _alive(self) -> None:
        self.watchdog.alive(self.steps + 1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Train with no other start in the work folder. Collective."""
        where = Path(self.work_dir), self.checkpoints
        with held_by_first(*where, "work_dir", "strategy.checkpoints", self.ranks) as self.leases:
            yield

    def storage(self, kind: str = CHECKPOINTS) -> Storage:
        """Open the storage of the run's checkpoints, or of its best ones by a metric ("best_mIoU")."""
        base = self.checkpoints or str(Path(self.work_dir) / CHECKPOINTS)
        return open_storage(base if kind == CHECKPOINTS else f"{base.rstrip('/')}_{kind}")

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable | None = None,
    ) -> None:
        """Save all of the training, in the background. Collective.

        Of the name, only the metric that it is the best by counts.
        """
        extra = extra_ckpt or {}
        # An iteration is a step; by the runner's own count the best checkpoint would be one ahead.
        meta = {**extra.get("meta", {}), "seed": self.seed, "iter": self.steps}
        name = Path(filename).name
        kind = name.rsplit("_iter_", 1)[0].rsplit("_epoch_", 1)[0] if name.startswith("best_") else CHECKPOINTS
        if kind not in self.writers:
            keep = self.keep if kind == CHECKPOINTS else Retention(last=1)
            writer = CheckpointWriter(
                self.state, self.ema, self.storage(kind), keep, self.ranks, alive=self._alive, leases=self.leases
            )
            self.writers[kind] = self.closing.enter_context(writer)
        record = {
            "meta": plain(meta),
            "runtime_info": plain(dict(extra.get("message_hub", {}).get("runtime_info", {}))),
            "param_schedulers": plain(self.scheduler_state_dict()) if hasattr(self, "param_schedulers") else [],
            "param_groups": [_settings(group) for group in self.optim_wrapper.param_groups],
            "model": redacted(plain(self.model_config)),
            "steps": self.steps,
        }
        self.writers[kind].save(self.steps, record, {})
        if kind == CHECKPOINTS:
            self.saved = self.steps

    def newest(self) -> CheckpointReader | None:
        """Find the newest whole checkpoint and name damaged newer ones. Collective.

        Raises:
            BadInput: there are checkpoints, and none is whole.
        """
        found = find_checkpoint(self.storage(), self.ranks, warn=lambda line: self.logger.warning(f"not used: {line}"))
        if found.reader is None and found.damaged:
            raise BadInput(f"no checkpoint in {self.storage()} is whole ({found.damaged[0]}); restore one", agreed=True)
        return found.reader

    def resume_from(self, reader: CheckpointReader) -> dict[str, Any]:
        """Load a checkpoint of this run and return what `save_checkpoint` was given. Collective."""
        _refuse_another_model(reader, plain(self.model_config))
        load_checkpoint(self.state, self.ema, reader)
        self.steps = self.saved = reader.record["steps"]
        if hasattr(self, "param_schedulers"):
            self.load_scheduler_state_dict(reader.record["param_schedulers"])
            # Schedulers multiply the rate that they find, so it has to be the one that they left.
            for group, settings in zip(self.optim_wrapper.param_groups, reader.record["param_groups"], strict=True):
                group.update(settings)
        self.logger.info(f"resuming from {reader.where}")
        return reader.record

    def resume(self, filename: str, **_: Any) -> dict:
        raise BadInput('FDStrategy resumes the newest whole checkpoint; set runner_type = "FDRunner" and --resume')

    def load_checkpoint(self, filename: str, *, callback: Callable | None = None, **_: Any) -> dict:
        """Load an exported mmengine checkpoint into the model to evaluate.

        Raises:
            BadInput: not such a file, or one of another model; or in training, where `backbone.weights` is the way.
        """
        if isinstance(self.model, EngineModel):
            raise BadInput("load_from in training is not offered; give the backbone its `weights`")
        content = read_state_dict(filename)
        missing, unexpected = self.model.load_state_dict(content["state_dict"], strict=False)
        if missing or unexpected:
            raise BadInput(f"{filename} is of another model; missing: {missing[:3]}, not known here: {unexpected[:3]}")
        if callback:
            callback(content)
        return content


def _copy_from(values: dict[str, Tensor], name: str, whole: Tensor) -> None:
    whole.copy_(values[name])


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What schedulers have made of a parameter group."""
    return {key: value for key, value in group.items() if isinstance(value, float) and not isinstance(value, bool)}


def _refuse_another_model(reader: CheckpointReader, model: Any) -> None:
    there, here = (_without_choices(without_secrets(config)) for config in (reader.record["model"], model))
    if json.dumps(there, sort_keys=True) != json.dumps(here, sort_keys=True):
        keys = [key for key in here if there.get(key) != here[key]]
        raise BadInput(
            f"{reader.where} was saved with another config, differing in model.{', model.'.join(keys) or '*'}; give "
            f"another --work-dir",
            agreed=True,
        )


def _without_choices(model: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model without what changes how it is computed, and not what it is."""
    backbone = model.get("backbone")
    if not isinstance(backbone, dict):
        return model
    return {**model, "backbone": {key: value for key, value in backbone.items() if key not in FREE_CHOICES}}
