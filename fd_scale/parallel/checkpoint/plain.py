"""The state of a plain module and its torch optimizer: every rank holds all of it, and saves its share.

Serves a single process, DDP, ZeRO-0 in fp32, and trainers of others. Optimizer states may have shapes of their own
(Adafactor's rows and columns).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.parallel.checkpoint.reader import BUFFER, WEIGHT, CheckpointReader
from fd_scale.parallel.checkpoint.state import (
    GROUP_STEP,
    OPTIMIZER,
    Piece,
    Scalars,
    TrainingState,
    decode,
    encode,
    run_of,
    scalar_device,
    share,
)


class PlainState(TrainingState):
    def trained(self) -> Iterator[tuple[Piece, nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            piece = share(name, tuple(parameter.shape), self.ranks)
            if parameter.requires_grad and piece.elements:
                yield piece, parameter

    def weight(self, piece: Piece, parameter: nn.Parameter) -> Tensor:
        return run_of(parameter, piece)

    def fragments(self) -> Iterator[tuple[str, Piece, Tensor]]:
        for name, parameter in self.module.named_parameters():
            for key, value in ((WEIGHT, parameter.data), *self._tensor_states(parameter)):
                piece = share(name, tuple(value.shape), self.ranks)
                if piece.elements:
                    yield key, piece, run_of(value, piece)
        yield from self.unsharded()

    def scalars(self) -> dict[str, Scalars]:
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        found: dict[str, Scalars] = {}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            encoded = {k: encode(v) for k, v in state.items() if not _is_array(v) and v is not None}
            if "step" in groups.get(id(parameter), {}):
                encoded[GROUP_STEP] = encode(groups[id(parameter)]["step"])
            if encoded:
                found[name] = encoded
        return found

    def fill(self, values: Callable[[str, Tensor], None]) -> None:
        """Do nothing: the parameters are what is trained, and there are no masters beside them."""

    def load(self, reader: CheckpointReader, optimizer: bool) -> None:
        for name, value in [*self.module.named_parameters(), *self.buffers().items()]:
            key = WEIGHT if isinstance(value, nn.Parameter) else BUFFER
            value.data.copy_(reader.read(name, key).view(value.shape))
        if optimizer:
            self._load_optimizer(reader)

    def _load_optimizer(self, reader: CheckpointReader) -> None:
        keys = [key for key in reader.keys if key.startswith(OPTIMIZER)]
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                scalars = reader.scalars.get(name, {})
                device = scalar_device(self.optimizer, parameter)
                state: dict[str, Any] = {k: decode(v, device) for k, v in scalars.items() if k != GROUP_STEP}
                for key in keys:
                    if reader.has(name, key):
                        value = reader.read(name, key).view(reader.shape(name, key))
                        state[key.removeprefix(OPTIMIZER)] = _like(value, parameter)
                if state:
                    self.optimizer.state[parameter] = state
                if GROUP_STEP in scalars:
                    group["step"] = decode(scalars[GROUP_STEP], torch.device("cpu"))

    def _tensor_states(self, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
        state = self.optimizer.state.get(parameter, {})
        return [(OPTIMIZER + key, value) for key, value in state.items() if _is_array(value)]


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """On the parameter's device, and in its memory format where the shapes agree."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_array(value: Any) -> bool:
    return torch.is_tensor(value) and value.dim() > 0
