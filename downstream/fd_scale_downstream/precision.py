"""bf16 in models that were written for fp32: features in bf16, boxes, scores and losses in fp32.

Parameters are bf16 in the engine, whose masters are fp32. Autocast takes care of what torch knows; mmcv's operators are
unknown to it and to bf16, and a box in bf16 has three digits. Buffers stay in fp32 (pixel statistics, the running ones
of batch norms); DeepSpeed casts parameters alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fd_scale_downstream.norm import FDSyncBN


def compute_in_bf16(model: nn.Module, device_type: str) -> None:
    """Set up a model before an engine in bf16 is made of it."""
    # Inside the engine, which switches off an autocast around it.
    model.forward = torch.autocast(device_type, torch.bfloat16)(model.forward)
    for module in model.modules():
        name = type(module).__name__
        if type(module).__module__.startswith("mmcv.ops") or name.endswith("RoIExtractor"):
            module.register_forward_pre_hook(lambda _, given: in_fp32(given))
        elif name.endswith("Head"):
            module.register_forward_hook(lambda _, given, result: in_fp32(result))
        elif isinstance(module, FDSyncBN):
            continue  # computes in fp32 by itself
        elif isinstance(module, _BatchNorm) and module.affine and device_type == "cpu":
            module.forward = partial(_batch_norm, module, module.forward)  # type: ignore[method-assign]


def _batch_norm(module: _BatchNorm, forward: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """`forward` with weights as wide as the running statistics: torch on a CPU takes them in one type only."""
    if module.weight.dtype == torch.float32:
        return forward(maps)
    wide = {name: parameter.float() for name, parameter in module.named_parameters()}
    return functional_call(module, wide, maps.float()).to(maps.dtype)  # comes back here, with these weights


def in_fp32(value: Any) -> Any:
    """Convert the floating-point tensors in lists and tuples to fp32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(in_fp32(item) for item in value)
    return value
