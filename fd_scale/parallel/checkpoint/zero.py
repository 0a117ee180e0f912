"""The state of a DeepSpeed engine at ZeRO stages 1 to 3, with or without offload to the host.

Stage 3 is read through DeepSpeed's public local accessors; stages 1 and 2 have none, so there the mapping that its own
accessors use is read. Source of the traps handled here: measured on DeepSpeed 0.19.8.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fd_scale.errors import BadInput
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
from fd_scale.parallel.ranks import Ranks


class _ZeroState(TrainingState):
    """What the stages share: the base optimizer updates a few flat fp32 tensors, its states are as flat."""

    flat_attributes: tuple[str, ...]

    def __init__(self, engine: Any, ranks: Ranks):
        super().__init__(engine.module, engine.optimizer.optimizer, ranks)
        self.zero = engine.optimizer

    def flats(self) -> list[Tensor]:
        for attribute in self.flat_attributes:
            if hasattr(self.zero, attribute):
                return list(getattr(self.zero, attribute))
        raise TypeError(f"{type(self.zero).__name__} keeps no flat fp32 partitions that we know of")

    def fragments(self) -> Iterator[tuple[str, Piece, Tensor]]:
        keys = self._state_keys()
        for piece, parameter in self.trained():
            yield WEIGHT, piece, self.weight(piece, parameter)
            for key in keys:
                yield OPTIMIZER + key, piece, self.optimizer_state(piece, parameter, key)
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                piece, value = self.frozen(name, parameter)
                yield WEIGHT, piece, value
        yield from self.unsharded()

    def scalars(self) -> dict[str, Scalars]:
        """The same for all parameters: a flat tensor has one step count."""
        found: Scalars = {}
        for flat in self.flats():
            for key, value in self.optimizer.state.get(flat, {}).items():
                if not _is_per_element(value, flat) and value is not None:
                    found[key] = encode(value)
        if "step" in self.optimizer.param_groups[0]:
            found[GROUP_STEP] = encode(self.optimizer.param_groups[0]["step"])
        return {name: found for name, p in self.module.named_parameters() if p.requires_grad}

    def fill(self, values: Callable[[str, Tensor], None]) -> None:
        if all(parameter.dtype == torch.float32 for parameter in self.module.parameters()):
            return
        pieces = {piece.name: (piece, parameter) for piece, parameter in self.trained()}
        shapes = self.shapes()
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            whole = torch.empty(shapes[name])
            if self.ranks.is_first:
                values(name, whole)
            whole = whole.to(self.ranks.device)
            dist.broadcast(whole, src=0)
            if name in pieces:
                piece, parameter = pieces[name]
                self.set_weight(parameter, run_of(whole, piece))
        self.refresh()

    def load(self, reader: CheckpointReader, optimizer: bool) -> None:
        keys = [key for key in reader.keys if key.startswith(OPTIMIZER)] if optimizer else []
        if optimizer:
            self._create_states(reader, keys)
        for piece, parameter in self.trained():
            self.set_weight(parameter, reader.read(piece.name, WEIGHT, piece.start, piece.elements))
            for key in keys:
                value = reader.read(piece.name, key, piece.start, piece.elements)
                self.set_optimizer_state(piece, parameter, key.removeprefix(OPTIMIZER), value)
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                self.set_frozen(name, parameter, reader)
        self.refresh()
        for name, buffer in self.buffers().items():
            buffer.copy_(reader.read(name, BUFFER).view(buffer.shape))

    @abstractmethod
    def optimizer_state(self, piece: Piece, parameter: nn.Parameter, key: str) -> Tensor: ...

    @abstractmethod
    def frozen(self, name: str, parameter: nn.Parameter) -> tuple[Piece, Tensor]: ...

    @abstractmethod
    def set_weight(self, parameter: nn.Parameter, value: Tensor) -> None: ...

    @abstractmethod
    def set_optimizer_state(self, piece: Piece, parameter: nn.Parameter, key: str, value: Tensor) -> None: ...

    @abstractmethod
    def set_frozen(self, name: str, parameter: nn.Parameter, reader: CheckpointReader) -> None: ...

    @abstractmethod
    def refresh(self) -> None:
        """Renew what the forward pass reads, after the masters were set. Collective."""

    def _state_keys(self) -> list[str]:
        """None before the first step: torch's optimizers make their states then."""
        states = [(flat, self.optimizer.state.get(flat, {})) for flat in self.flats()]
        return sorted({key for flat, state in states for key in state if _is_per_element(state[key], flat)})

    def _create_states(self, reader: CheckpointReader, keys: list[str]) -> None:
        """Make the states that the first step would make, so that they can be written to."""
        all_scalars = [reader.scalars[name] for name in self.shapes() if name in reader.scalars]
        scalars = all_scalars[0] if all_scalars else {}
        if any(other != scalars for other in all_scalars):
            raise BadInput(
                f"{reader.where}: its parameters have different step counts, which a flat ZeRO partition cannot hold; "
                f"start from its weights alone with start.init_from"
            )
        for flat in self.flats():
            state = self.optimizer.state[flat]
            for key in keys:
                state[key.removeprefix(OPTIMIZER)] = torch.zeros_like(flat, dtype=reader.dtype(key))
            for key, value in scalars.items():
                if key != GROUP_STEP:
                    state[key] = decode(value, scalar_device(self.optimizer, flat))
        if GROUP_STEP in scalars:
            for group in self.optimizer.param_groups:
                group["step"] = decode(scalars[GROUP_STEP], torch.device("cpu"))


class Zero3State(_ZeroState):
    flat_attributes = ("fp32_partitioned_groups_flat",)

    def trained(self) -> Iterator[tuple[Piece, nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            piece = _partition(name, parameter)
            if parameter.requires_grad and piece.elements:
                yield piece, parameter

    def weight(self, piece: Piece, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param

        return safe_get_local_fp32_param(parameter).detach()[: piece.elements]

    def optimizer_state(self, piece: Piece, parameter: nn.Parameter, key: str) -> Tensor:
        from deepspeed.utils import safe_get_local_optimizer_state

        return safe_get_local_optimizer_state(parameter, key).detach()[: piece.elements]

    def frozen(self, name: str, parameter: Any) -> tuple[Piece, Tensor]:
        piece = _partition(name, parameter)
        return piece, parameter.ds_tensor.detach()[: piece.elements]

    def set_weight(self, parameter: Any, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        padded = _padded(value, parameter)
        safe_set_local_fp32_param(parameter, padded)
        # The accessor sets the master only; the next forward would still gather the old partition, in fp32 too.
        parameter.ds_tensor.data.copy_(padded.to(parameter.ds_tensor.dtype))

    def set_optimizer_state(self, piece: Piece, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, _padded(value, parameter), key)

    def set_frozen(self, name: str, parameter: Any, reader: CheckpointReader) -> None:
        piece = _partition(name, parameter)
        value = reader.read(name, WEIGHT, piece.start, piece.elements)
        parameter.ds_tensor.data.copy_(_padded(value, parameter).to(parameter.ds_tensor.dtype))

    def refresh(self) -> None:
        parameters: list[Any] = list(self.module.parameters())
        for parameter in parameters:
            parameter.ds_secondary_tensor = None  # the copy inside a node (hpZ) is made anew from the partition
        # Small parameters stay gathered between steps; that copy is stale as well.
        small = [parameter for parameter in parameters if parameter.ds_persist]
        if small:
            small[0].partition(small)
            small[0].all_gather(small)


class Zero12State(_ZeroState):
    flat_attributes = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition")

    def trained(self) -> Iterator[tuple[Piece, nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            mapping = getattr(parameter, "_hp_mapping", None)
            if parameter.requires_grad and mapping is not None:
                address = mapping.lp_fragment_address
                yield Piece(name, tuple(parameter.shape), address.start, address.numel), parameter

    def weight(self, piece: Piece, parameter: Any) -> Tensor:
        return parameter._hp_mapping.hp_fragment.detach()

    def optimizer_state(self, piece: Piece, parameter: Any, key: str) -> Tensor:
        mapping = parameter._hp_mapping
        flat = self.flats()[mapping.param_group_index]
        address = mapping.hp_fragment_address
        return self.optimizer.state[flat][key].narrow(0, address.start, address.numel)

    def frozen(self, name: str, parameter: nn.Parameter) -> tuple[Piece, Tensor]:
        piece = share(name, tuple(parameter.shape), self.ranks)
        return piece, run_of(parameter, piece)

    def set_weight(self, parameter: Any, value: Tensor) -> None:
        parameter._hp_mapping.hp_fragment.data.copy_(value)

    def set_optimizer_state(self, piece: Piece, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        self.optimizer_state(piece, parameter, key).copy_(value)

    def set_frozen(self, name: str, parameter: nn.Parameter, reader: CheckpointReader) -> None:
        parameter.data.copy_(reader.read(name).view(parameter.shape))

    def refresh(self) -> None:
        self.zero.update_lp_params()


def _partition(name: str, parameter: Any) -> Piece:
    """Every rank's partition has the same padded length; what reaches past the end is padding."""
    length = parameter.ds_tensor.ds_numel
    start = min(parameter.ds_zero_partition_rank * length, parameter.ds_numel)
    return Piece(name, tuple(parameter.ds_shape), start, min(length, parameter.ds_numel - start))


def _padded(value: Tensor, parameter: Any) -> Tensor:
    padded = torch.zeros(parameter.ds_tensor.ds_numel, dtype=value.dtype, device=value.device)
    padded[: value.numel()] = value
    return padded


def _is_per_element(value: Any, flat: Tensor) -> bool:
    return torch.is_tensor(value) and value.dim() > 0 and value.numel() == flat.numel()
