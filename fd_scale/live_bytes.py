"""The peak of live tensor bytes of a pass, counted on fake tensors: what PyTorch's profiler reports of a real one.

Each tensor's memory counts from the operator that makes it until the last reference to it is gone, so the work space of
the backward pass is in it: gradients on their way, and what a block keeps while it is recomputed. Left out: memory that
an operator takes and gives back before it ends, which belongs to the kernel of a device.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counter of the memory of tensors that are made inside the block.

    Attributes:
        live, peak: bytes now, and the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_storage(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _storage(value) not in given:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._counted:
            return
        self._counted.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, storage.nbytes()).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live -= size


def on_fake_tensors(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace a meta module's parameters by fake ones of `dtype`, and its buffers; inside `FakeTensorMode`."""
    for owner in module.modules():
        parameters = {name: p for name, p in owner._parameters.items() if p is not None}
        buffers = {name: b for name, b in owner._buffers.items() if b is not None}
        owner._parameters.update(
            {n: nn.Parameter(torch.empty(p.shape, dtype=dtype), p.requires_grad) for n, p in parameters.items()}
        )
        owner._buffers.update({n: torch.empty(b.shape, dtype=b.dtype) for n, b in buffers.items()})


def peak_of_training(module: nn.Module, images: tuple[int, ...], dtype: torch.dtype) -> int:
    """Count the bytes at the peak of one forward and backward pass, besides parameters and their gradients.

    Gradients are left out because ZeRO moves each into a buffer of its own as soon as it is there.

    Args:
        module: on the meta device; recomputation is applied to it already. It is changed.
        images: shape of a micro-batch.
    """
    with FakeTensorMode():
        on_fake_tensors(module, dtype)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        batch = torch.empty(images, dtype=dtype)
        with LiveBytes() as counted:
            outputs = module(batch)
            _sum_of(outputs).backward()
    return counted.peak


def peak_of_evaluation(module: Callable[[Tensor], Any], images: tuple[int, ...], dtype: torch.dtype) -> int:
    """Count the bytes at the peak of one forward pass without gradient, besides parameters.

    Arguments as in `peak_of_training`.
    """
    with FakeTensorMode(), torch.no_grad():
        on_fake_tensors(module, dtype)  # type: ignore[arg-type]
        batch = torch.empty(images, dtype=dtype)
        with LiveBytes() as counted:
            module(batch)
    return counted.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _sum_of(outputs: Any) -> Tensor:
    return torch.stack([value.float().mean() for value in tree_leaves(outputs)]).sum()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
