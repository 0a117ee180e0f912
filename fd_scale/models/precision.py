"""Precision in which a model computes: its parameters in one type, each buffer in the precision that it needs.

A buffer takes the type of the parameters where that loses nothing: masks of 0 and -100, a bias of the keys that is 0.
Any other stays as it is, in fp32: log-spaced coordinates, rotary tables, the statistics of batch norms, which bf16
would round to three digits. Replicated and sharded models are treated alike, here and nowhere else; DeepSpeed casts
parameters and leaves buffers alone.

What such a buffer meets has to take two types at once:
  - linear maps and convolutions of the modules that own one widen their weights for a wider input (`Widening`);
  - a frozen batch norm keeps its weights with its statistics, as buffers, in fp32; they are a few numbers per channel,
    so that they are not worth sharding. timm's students have none.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Widening:
    """Mixin for a linear map or a convolution that does not round an input of a wider type than the weights.

    The result has the type of the weights. An autocast around would round the input again, so it is switched off.
    """

    def forward(self, input: Tensor) -> Tensor:
        layer: Any = self
        weight, bias = layer.weight, layer.bias
        if input.dtype == weight.dtype or torch.promote_types(input.dtype, weight.dtype) != input.dtype:
            return super().forward(input.to(weight.dtype))  # type: ignore[misc]
        meta = input.device.type == "meta"  # unknown to autocast
        with contextlib.nullcontext() if meta else torch.autocast(input.device.type, enabled=False):
            wide = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
            if isinstance(self, nn.Conv2d):
                return self._conv_forward(input, *wide).to(weight.dtype)
            return nn.functional.linear(input, *wide).to(weight.dtype)


class WideningLinear(Widening, nn.Linear):
    """Linear map for coordinates, which stay fp32 while the weights may be bf16."""


class WideningConv2d(Widening, nn.Conv2d):
    """Convolution for images that a model normalises by fp32 statistics of its own."""


WIDENING: dict[type, type] = {nn.Linear: WideningLinear, nn.Conv2d: WideningConv2d}


def fit_buffers(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give each buffer the precision that it needs in a model whose parameters are, or will be, of that type.

    Idempotent. Call it before an engine is made of the model.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            _keep_whole(module, dtype)
            continue
        kept = False
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_floating_point() or buffer.dtype == dtype:
                continue
            lower = buffer.to(dtype)
            if torch.equal(lower.to(buffer.dtype), buffer):
                module._buffers[name] = lower
            else:
                kept = True
        if kept:
            _widen(module)
    return model


def cast(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Put a model that no engine will be made of on a device, to compute in that type; see `fit_buffers`.

    `model.to(dtype)` would round all of its buffers.
    """
    fit_buffers(model, dtype).to(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _keep_whole(norm: _BatchNorm, dtype: torch.dtype) -> None:
    parameters = {name: value for name, value in norm._parameters.items() if value is not None}
    if dtype == torch.float32 or norm.running_mean is None or any(value.requires_grad for value in parameters.values()):
        return
    for name, value in parameters.items():
        del norm._parameters[name]
        norm.register_buffer(name, value.data)


def _widen(owner: nn.Module) -> None:
    for module in owner.modules():
        if type(module) in WIDENING:
            module.__class__ = WIDENING[type(module)]
