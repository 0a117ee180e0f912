"""A DeepSpeed engine in the place where mmengine's loops expect a model, and the optimizer wrapper that goes with it.

Training goes through the engine. Evaluation goes through a plain copy of the model in fp32 (`fd_scale.parallel.
evaluation` says why), made when a loop switches to evaluation and dropped when training continues.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.whole_parts import WholeParts
from fd_scale.stops.preemption import StopRequest


@MODEL_WRAPPERS.register_module()
class EngineModel:
    """The model as a runner of mmengine calls it, around a DeepSpeed engine.

    heads: the parts whose modules may run differently on every rank.
    accumulation: parts that a batch of the data loader is cut into; their gradients are summed up to one step, so an
        iteration is an optimizer step on any number of ranks.
    make_copy: a plain model with the weights as they are, for evaluation. Collective.
    after_step: called after every optimizer step.
    alive: a sign of life for the watchdog.
    stop: whether this process was asked to stop; ranks agree on it in every step, `must_stop` is what they agreed on.
    """

    def __init__(
        self,
        engine: Any,
        heads: WholeParts,
        accumulation: int,
        make_copy: Callable[[], nn.Module],
        after_step: Callable[[], None],
        alive: Callable[[], None],
        stop: StopRequest,
    ):
        self.engine, self.heads, self.accumulation = engine, heads, accumulation
        self.make_copy, self.after_step = make_copy, after_step
        self.alive, self.stop, self.must_stop = alive, stop, False
        self.copy: nn.Module | None = None
        self.dtype = next(engine.module.parameters()).dtype

    @property
    def module(self) -> Any:
        return self.engine.module

    @property
    def training(self) -> bool:
        return self.module.training

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine.module, name)  # what hooks and heads ask of a model

    def train(self, mode: bool = True) -> "EngineModel":
        if mode:
            self.copy = None
            self.module.train()
            return self
        return self.eval()

    def eval(self) -> "EngineModel":
        self.module.eval()
        if self.copy is None:
            self.copy = self.make_copy().eval()
        return self

    def train_step(self, data: dict[str, Any], optim_wrapper: BaseOptimWrapper) -> dict[str, Tensor]:
        """Make one optimizer step. The logged values are means over the parts of the batch.

        Raises:
            BadInput: loss or gradient is not finite, on any rank; the weights are from before the step.
        """
        logged: list[dict[str, Tensor]] = []
        for part in split(data, self.accumulation):
            self.alive()
            ready = self.module.data_preprocessor(part, True)
            ready["inputs"] = ready["inputs"].to(self.dtype)
            loss, values = self.module.parse_losses(self.engine(**ready, mode="loss"))
            # Waits for the device.
            total, asked = process_group.sum_over_ranks([loss.item(), float(self.stop.asked)])
            self.must_stop = asked > 0
            if not math.isfinite(total):
                names = ", ".join(str(sample.img_path) for sample in ready["data_samples"])
                raise BadInput(
                    f"the loss is {total} in a batch with {names} or its like on another rank; lower "
                    f"optim_wrapper.optimizer.lr. Checkpoints are untouched",
                    agreed=True,
                )
            optim_wrapper.update_params(self.heads.touch(loss))
            logged.append(values)
        self.after_step()
        return {name: torch.stack([torch.as_tensor(part[name]) for part in logged]).mean() for name in logged[0]}

    def val_step(self, data: dict[str, Any]) -> list:
        assert self.copy is not None, "loops call eval() before they evaluate"
        self.alive()
        return self.copy.val_step(data)  # type: ignore[operator]

    test_step = val_step


class EngineOptimWrapper(BaseOptimWrapper):
    """The optimizer as schedulers of mmengine see it.

    They set learning rates here. Backward pass, clipping, accumulation and step are the engine's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, engine: Any):
        super().__init__(optimizer)
        self.engine = engine

    def update_params(self, loss: Tensor) -> None:
        self.backward(loss)
        self.step()

    def backward(self, loss: Tensor, **_: Any) -> None:
        self.engine.backward(loss)

    def step(self, **_: Any) -> None:
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        if norm is None:  # between the parts of the first batch
            return
        if not math.isfinite(norm):
            raise BadInput(
                f"the gradient norm is {float(norm)}; lower optim_wrapper.optimizer.lr. Checkpoints are untouched",
                agreed=True,
            )
        MessageHub.get_current_instance().update_scalar("train/grad_norm", float(norm))

    def zero_grad(self, **_: Any) -> None:
        """Do nothing: the engine clears the gradients after a step."""


def split(data: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Cut a batch of the data loader into `parts` equal ones.

    The batch is a dict of lists or tensors with one entry for each image.

    Raises:
        BadInput: it does not divide.
    """
    size = len(next(iter(data.values())))
    if size % parts:
        raise BadInput(
            f"a batch of {size} images is not divisible by strategy.accumulation={parts}; change one of them"
        )
    step = size // parts
    return [{key: value[start : start + step] for key, value in data.items()} for start in range(0, size, step)]
