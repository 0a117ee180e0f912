"""State of a training on a rank, as runs of flattened tensors: the one view of it that saving and loading need.

`training_state` gives it for a DeepSpeed engine of any stage, or for a plain module and its optimizer; which rank holds
what is the business of `zero.py` and `plain.py`. Everything has one owner: over all ranks the fragments cover each
tensor once.

Keys say what of a parameter a fragment is: `weight` (the fp32 master where there is one), `optimizer.<state>` by the
optimizer's own name for it, `ema`, `buffer`; and `task` for tensors that belong to no parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.parallel.checkpoint.reader import BUFFER, CheckpointReader
from fd_scale.parallel.ranks import Ranks

OPTIMIZER = "optimizer."
TASK = "task"
GROUP_STEP = "group.step"
"""Some optimizers (timm's, fused ones) count steps in the parameter group instead of in each state."""

Scalars = dict[str, Any]
"""Of one parameter: "step" and its like. A Python number as it is, a tensor as ["float32", value]."""


@dataclass(frozen=True)
class Piece:
    """A run of a flattened tensor."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    elements: int


class TrainingState(ABC):
    """Weights, buffers and optimizer of a training on this rank."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks):
        self.module, self.optimizer, self.ranks = module, optimizer, ranks
        self.of_task: dict[str, Tensor] = {}
        """What a task computes beside the model, whole and alike on every rank; loading writes to it in place."""

    @property
    def optimizer_name(self) -> str:
        return type(self.optimizer).__name__

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all weights and persistent buffers, whole."""
        weights = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self.module.named_parameters()}
        return weights | {name: tuple(buffer.shape) for name, buffer in self.buffers().items()}

    def buffers(self) -> dict[str, Tensor]:
        """Buffers: what `state_dict` holds besides parameters."""
        parameters = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        return {name: value for name, value in self.module.state_dict().items() if name not in parameters}

    def unsharded(self) -> Iterator[tuple[str, Piece, Tensor]]:
        """Yield those of `fragments` that the first rank saves for all.

        Running statistics of buffers may differ between ranks; the first one's count.
        """
        if self.ranks.is_first:
            for key, tensors in ((BUFFER, self.buffers()), (TASK, self.of_task)):
                for name, value in tensors.items():
                    yield key, whole(name, tuple(value.shape)), value.detach().reshape(-1)

    def load_of_task(self, reader: CheckpointReader) -> None:
        """Load what the task keeps, if the checkpoint holds all of it in the same shapes.

        Otherwise the task starts it afresh.
        """
        if all(
            reader.has(name, TASK) and reader.shape(name, TASK) == tuple(value.shape)
            for name, value in self.of_task.items()
        ):
            for name, value in self.of_task.items():
                value.copy_(reader.read(name, TASK).view(value.shape))

    @abstractmethod
    def trained(self) -> Iterator[tuple[Piece, nn.Parameter]]:
        """Yield this rank's pieces of the parameters that are trained, in the model's order."""

    @abstractmethod
    def weight(self, piece: Piece, parameter: nn.Parameter) -> Tensor:
        """Piece (elements,) of the fp32 master, as the optimizer updates it."""

    @abstractmethod
    def fragments(self) -> Iterator[tuple[str, Piece, Tensor]]:
        """Yield key, piece and value (elements,) of all that this rank has to save.

        Values may be views: copy them.
        """

    @abstractmethod
    def scalars(self) -> dict[str, Scalars]:
        """Scalar states of the optimizer, by parameter."""

    @abstractmethod
    def fill(self, values: Callable[[str, Tensor], None]) -> None:
        """Give the trained weights their first values in fp32, which an engine that computes in bf16 has rounded.

        So a run starts from the same masters whatever its precision and ZeRO stage. Nothing happens where parameters
        are fp32 themselves. Collective.

        Args:
            values: fills a named parameter, whole and on the host, in place; it is asked on the first rank alone.
        """

    @abstractmethod
    def load(self, reader: CheckpointReader, optimizer: bool) -> None:
        """Load weights and buffers, and the optimizer's states where asked. Collective."""


def training_state(model: Any, ranks: Ranks, optimizer: torch.optim.Optimizer | None = None) -> TrainingState:
    """Open the state of a DeepSpeed engine, or of a module and its optimizer.

    The latter are replicated on all ranks (a world of one, or DDP).

    Raises:
        BadInput: an engine that keeps no fp32 weights.
    """
    from fd_scale.parallel.checkpoint.plain import PlainState
    from fd_scale.parallel.checkpoint.zero import Zero3State, Zero12State

    if optimizer is not None:
        return PlainState(model, optimizer, ranks)
    if isinstance(model.optimizer, torch.optim.Optimizer):  # ZeRO-0 in fp32: the optimizer is the user's own
        return PlainState(model.module, model.optimizer, ranks)
    if hasattr(model.optimizer, "fp32_partitioned_groups_flat"):
        return Zero3State(model, ranks)
    if hasattr(model.optimizer, "real_dp_process_group"):
        return Zero12State(model, ranks)
    raise BadInput(
        f"checkpoints of DeepSpeed's {type(model.optimizer).__name__} are not supported: it shards nothing; "
        f"set zero_optimization.stage to 1, 2 or 3, or parallel.precision to fp32"
    )


def share(name: str, shape: tuple[int, ...], ranks: Ranks) -> Piece:
    """Cut out the part of a replicated tensor that this rank saves."""
    total = torch.Size(shape).numel()
    start, end = (total * r // ranks.world for r in (ranks.rank, ranks.rank + 1))
    return Piece(name, shape, start, end - start)


def whole(name: str, shape: tuple[int, ...]) -> Piece:
    return Piece(name, shape, 0, torch.Size(shape).numel())


def run_of(value: Tensor, piece: Piece) -> Tensor:
    """Cut a piece out of a flattened tensor. Returns (elements,)."""
    return value.detach().reshape(-1)[piece.start : piece.start + piece.elements]


def encode(value: Any) -> Any:
    """Encode a scalar state as JSON."""
    if torch.is_tensor(value):
        return [str(value.dtype).removeprefix("torch."), value.item()]
    if isinstance(value, bool | int | float):
        return value
    raise TypeError(f"an optimizer state of type {type(value).__name__} cannot be saved")


def decode(value: Any, device: torch.device) -> Any:
    """Decode what `encode` wrote.

    torch keeps such tensors on the host unless a fused kernel reads them.
    """
    return torch.tensor(value[1], dtype=getattr(torch, value[0]), device=device) if isinstance(value, list) else value


def scalar_device(optimizer: torch.optim.Optimizer, of: Tensor) -> torch.device:
    group = optimizer.param_groups[0]
    return of.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
