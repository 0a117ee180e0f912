"""Batch normalisation over all ranks, for heads that were published with SyncBN: `norm_cfg = dict(type="FDSyncBN")`.

torch's SyncBatchNorm runs on GPUs only, takes no bf16 weights beside fp32 statistics, and waits for ever where one rank
has no samples. This one computes what BatchNorm does on the joined batch of all ranks, in fp32 whatever the type of the
maps, on any device. Its state has the names of SyncBatchNorm and BatchNorm, so weights go from one to the others.

Each rank has to call it equally often, also with an empty batch, as MMDetection's heads do for images without boxes.
"""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, distributed
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


@MODELS.register_module()
class FDSyncBN(_BatchNorm):
    """Batch normalisation of (B, C, ...) over B and all that follows C, of all ranks; B may be 0 on some."""

    _abbr_ = "bn"  # the name that MMEngine gives the layer, as for SyncBN

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"(B, C, ...) is expected, not {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        maps = input.float()
        weight = maps.new_ones(self.num_features) if self.weight is None else self.weight.float()
        bias = maps.new_zeros(self.num_features) if self.bias is None else self.bias.float()
        if not self.training and self.running_mean is not None:
            assert self.running_var is not None
            normed = functional.batch_norm(maps, self.running_mean, self.running_var, weight, bias, eps=self.eps)
            return normed.to(input.dtype)
        mean, variance, count = _statistics(maps.detach())
        if self.training and self.running_mean is not None and count:
            self._update(mean, variance, count)
        return _Normalise.apply(maps, weight, bias, mean, variance, count, self.eps).to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """As BatchNorm does, whose running variance is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * count / max(count - 1, 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """weight (x - mean) / sqrt(variance + eps) + bias, where mean and variance are of the x of all ranks."""

    @staticmethod
    def forward(
        context: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: float,
        eps: float,
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        normed = (maps - _along(mean, maps)) * _along(scale, maps)
        context.save_for_backward(normed, weight, scale)
        context.count = count
        return normed * _along(weight, maps) + _along(bias, maps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        normed, weight, scale = context.saved_tensors
        dims = _others(normed)
        of_bias, of_weight = gradient.sum(dims), (gradient * normed).sum(dims)
        # Mean and variance depend on the maps of every rank; the gradients of weight and bias stay this rank's own.
        sums = torch.stack([of_bias, of_weight]) * weight
        if _several():
            distributed.all_reduce(sums)
        by_mean, by_variance = sums / max(context.count, 1.0)
        of_normed = gradient * _along(weight, normed)
        of_maps = of_normed - _along(by_mean, normed) - normed * _along(by_variance, normed)
        return of_maps * _along(scale, normed), of_weight, of_bias, None, None, None, None


def _statistics(maps: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean (C,), variance (C,) and count of values a channel, over all ranks.

    Each rank gives its own mean and squared deviations, which are then joined: a sum of squares would lose the variance
    of maps whose mean is large.
    """
    dims = _others(maps)
    count = maps.new_tensor([maps.numel() // maps.shape[1]])
    mean = maps.sum(dims) / count.clamp(min=1)
    deviations = (maps - _along(mean, maps)).square().sum(dims)
    mine = torch.cat([mean, deviations, count])
    every = [mine]
    if _several():
        every = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(every, mine)
    gathered = torch.stack(every)  # (ranks, 2C + 1)
    means, deviations, counts = gathered.split([maps.shape[1], maps.shape[1], 1], dim=1)
    total = counts.sum().clamp(min=1)
    mean = (means * counts).sum(0) / total
    variance = (deviations + counts * (means - mean).square()).sum(0) / total
    return mean, variance, float(counts.sum())


def _others(maps: Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [dim for dim in range(maps.dim()) if dim != 1]


def _along(values: Tensor, maps: Tensor) -> Tensor:
    """(C,) so that it broadcasts to (B, C, ...)."""
    return values.view(-1, *[1] * (maps.dim() - 2))


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
