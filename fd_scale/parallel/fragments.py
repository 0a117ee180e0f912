"""Which piece of every parameter and optimizer state lives on this rank, and how to overwrite it.

A fragment is a run of a flattened tensor: (start, elements), without padding. ZeRO-3 is read through DeepSpeed's
public local accessors; stages 1 and 2 have none, so there the mapping that its own accessors use is read.

Source of the traps handled here: measured on DeepSpeed 0.19.8.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.parallel.checkpoint_reader import MASTER


@dataclass(frozen=True)
class Fragment:
    name: str
    shape: tuple[int, ...]
    start: int
    elements: int


def local_fragments(engine: Any) -> Iterator[tuple[Fragment, nn.Parameter]]:
    """The fragments of all trained parameters that this rank owns, in the model's order."""
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if _is_stage3(parameter):
            # Every rank's partition has the same padded length; what reaches past the end is padding.
            length = parameter.ds_tensor.ds_numel
            start = min(parameter.ds_zero_partition_rank * length, parameter.ds_numel)
            elements = min(length, parameter.ds_numel - start)
            shape = tuple(parameter.ds_shape)
        else:
            mapping = parameter._hp_mapping
            address = mapping.lp_fragment_address if mapping else None
            start, elements = (address.start, address.numel) if address else (0, 0)
            shape = tuple(parameter.shape)
        if elements:
            yield Fragment(name, shape, start, elements), parameter


def read_fragment(engine: Any, parameter: nn.Parameter, key: str, elements: int) -> Tensor:
    """(elements,) fp32 on the host: this rank's piece of the master weights or of the named optimizer state."""
    return _local(engine, parameter, key).detach()[:elements].to("cpu", torch.float32, copy=True)


def write_fragment(engine: Any, parameter: Any, key: str, value: Tensor) -> None:
    """Overwrite this rank's piece with `value` (elements,)."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if not _is_stage3(parameter):
        _local(engine, parameter, key).data[: value.numel()].copy_(value)
        return
    padded = torch.zeros(parameter.ds_tensor.ds_numel, dtype=torch.float32)
    padded[: value.numel()] = value
    if key == MASTER:
        safe_set_local_fp32_param(parameter, padded)
        # The accessor sets the master only; the next forward would still gather the old partition, in fp32 too.
        parameter.ds_tensor.data.copy_(padded.to(parameter.ds_tensor.dtype))
    else:
        safe_set_local_optimizer_state(parameter, padded, key)


def refresh_whole_parameters(engine: Any, read_whole: Callable[[str], Tensor]) -> None:
    """After the masters were overwritten: renew the copies that the forward pass uses.

    Args:
        read_whole: name -> (elements,) fp32, the whole flattened parameter.
    """
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if not _is_stage3(parameter):
            parameter.data.copy_(read_whole(name).view(parameter.shape))
        elif parameter.ds_persist and parameter.data.numel():
            # Small parameters stay gathered between steps; that copy is stale as well.
            parameter.data.copy_(read_whole(name).view(parameter.ds_shape))


def optimizer_state_keys(engine: Any) -> tuple[list[str], dict[str, float]]:
    """Names of the per-element states ("exp_avg"), and the scalar ones with their values ("step").

    Both are empty before the first step: torch's optimizers make their states then.
    """
    keys: set[str] = set()
    scalars: dict[str, float] = {}
    for flat in _flat_masters(engine):
        for key, value in _base_optimizer(engine).state.get(flat, {}).items():
            if torch.is_tensor(value) and value.numel() == flat.numel() and value.dim() > 0:
                keys.add(key)
            else:
                scalars[key] = float(value)
    return sorted(keys), scalars


def create_optimizer_states(engine: Any, keys: list[str], scalars: dict[str, float]) -> None:
    """Make the states that the first step would make, so that they can be written to."""
    for flat in _flat_masters(engine):
        state = _base_optimizer(engine).state[flat]
        for key in keys:
            state[key] = torch.zeros_like(flat)
        for key, value in scalars.items():
            state[key] = torch.tensor(value, dtype=torch.float32)


def _is_stage3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    return engine.optimizer.optimizer


def _flat_masters(engine: Any) -> list[Tensor]:
    """The flat fp32 tensors that the base optimizer really updates; each stage has a name of its own for them."""
    for attribute in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(engine.optimizer, attribute):
            return list(getattr(engine.optimizer, attribute))
    raise TypeError(f"{type(engine.optimizer).__name__} keeps no flat fp32 partitions that we know of")


def _local(engine: Any, parameter: Any, key: str) -> Tensor:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    if _is_stage3(parameter):
        return safe_get_local_fp32_param(parameter) if key == MASTER else safe_get_local_optimizer_state(parameter, key)
    mapping = parameter._hp_mapping
    if key == MASTER:
        return mapping.hp_fragment
    flat = _flat_masters(engine)[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return _base_optimizer(engine).state[flat][key].narrow(0, address.start, address.numel)
