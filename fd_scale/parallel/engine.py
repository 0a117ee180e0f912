"""Sharded construction, the training engine, and the frozen engine of a teacher."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fd_scale.parallel.host_memory import release_freed
from fd_scale.parallel.ranks import Ranks


class Engine(Protocol):
    """Interface of a `DeepSpeedEngine` that the loop and the tasks use."""

    module: Any
    """The model that it trains; under ZeRO-3 its parameters are empty outside of a pass."""
    optimizer: Any
    """DeepSpeed's wrapper of the torch optimizer."""

    def __call__(self, *inputs: Any) -> Any:
        """Run the model on this rank's inputs. Collective under ZeRO-3."""

    def backward(self, loss: Tensor) -> Any:
        """Add the gradients of a micro-batch's mean loss. Collective."""

    def step(self) -> Any:
        """Count a micro-batch; update the parameters after the last one of a global batch. Collective."""

    def get_global_grad_norm(self) -> Any:
        """Norm of the last update's gradient, before clipping."""

    def train(self, mode: bool = True) -> Any:
        """Switch the model to training."""

    def eval(self) -> Any:
        """Switch the model to evaluation."""


def build_sharded(
    build: Callable[[], Any], initialise: Callable[[str, Tensor], None], config: dict[str, Any], ranks: Ranks
) -> Any:
    """Build a model whose parameters never exist whole on more than one rank's host at a time. Collective.

    ZeRO-3's `zero.Init` shards each parameter as its module is constructed, and loses whatever is written to it
    afterwards outside of a gather: initialisation by walking over modules silently has no effect. So construction is
    only for shapes, and every parameter is then gathered alone, filled on rank 0 and scattered again.

    Args:
        build: constructs the model; what it writes into parameters is ignored.
        initialise: fills one named parameter in place, independent of the others.
        config: the DeepSpeed configuration that the engine will be made with.
    """
    import deepspeed

    if stage(config) < 3:
        model = build()
        for name, parameter in model.named_parameters():
            initialise(name, parameter.data)
        return model.to(ranks.device)
    # No dtype argument: on CPU it is ignored, and bf16 is used whatever it says. The configuration decides.
    with deepspeed.zero.Init(config_dict_or_path=config):
        model = build()
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if ranks.is_first:
                initialise(name, parameter.data)
    return model


def training_engine(
    model: nn.Module, optimizer: Callable[[list[dict]], torch.optim.Optimizer], groups: list[dict], config: dict
) -> Engine:
    """Make a `DeepSpeedEngine`: call it, then `backward(loss)` and `step()` for every micro-batch. Collective."""
    import deepspeed

    made = optimizer(groups)
    if next(model.parameters()).device.type == "cpu":
        # The update needs the most memory, and has no use for the gaps that the backward pass leaves in the heap.
        made.register_step_pre_hook(lambda *_: release_freed())
    # One of its optimizers prints memory tables whatever the log level.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(model=model, optimizer=made, config=config)
    return engine


def frozen_engine(model: nn.Module, micro_batch: int, ranks: Ranks, precision: str) -> nn.Module:
    """Shard a frozen model over the ranks (ZeRO-3 without optimizer); call the result. Collective.

    Kept apart from the student: as a submodule of it the teacher would land in every checkpoint.
    """
    import deepspeed

    config = {
        "train_batch_size": micro_batch * ranks.world,
        "train_micro_batch_size_per_gpu": micro_batch,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": precision == "bf16"},
        "steps_per_print": 2**31 - 1,
    }
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


def stage(config: dict[str, Any]) -> int:
    """ZeRO stage that a DeepSpeed configuration asks for."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def full_shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of the whole parameter; under ZeRO-3 `parameter.shape` is that of an empty placeholder."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def full_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each named parameter whole, one at a time, in the precision that the forward pass uses. Collective."""
    import deepspeed

    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.data
        else:
            yield name, parameter.data


def set_learning_rate(engine: Engine, of_scale: Callable[[float], float]) -> None:
    """Give each group the rate of its `lr_scale`, which is 1 unless the group says otherwise."""
    groups: Iterable[dict] = engine.optimizer.param_groups
    for group in groups:
        group["lr"] = of_scale(group.get("lr_scale", 1.0))
