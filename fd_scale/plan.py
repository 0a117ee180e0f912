"""What a run is made of, without a GPU: parameters, multiply-adds and memory of any module.

Modules are built on fake tensors (`FakeTensorMode`), which have shapes and types and no memory, so the size does not
matter. What is counted is what the module runs, not a formula of ours. Sources of the rules for memory: DeepSpeed's
estimator (18 bytes a parameter), arXiv 1910.02054 (what each ZeRO stage partitions).

Left out: time, the network, and memory that no tensor of the model accounts for (buffers of ZeRO, what is gathered of
stage 3 at a time, work space of kernels, the allocator's waste).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30


def parameters_by_part(module: nn.Module) -> dict[str, int]:
    """Number of parameters of each part, in the module's order; repeated blocks count as one part.

    Works on the meta device, so the size does not matter.
    """
    parts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        parts[_part(name)] += parameter.numel()
    return dict(parts)


@dataclass(frozen=True)
class Cost:
    """Of one forward pass. What is per image comes from the difference of three images and two."""

    multiply_adds: int
    """Per image, of matrix products, convolutions and attention; half of what is called FLOP."""
    blocks: list[tuple[int, int]]
    """Bytes that each block keeps for the backward pass: whatever the batch (its position bias), per image."""
    inputs: list[int]
    """Bytes of each block's input, per image."""
    rest: tuple[int, int]
    """Bytes kept outside of blocks, as in `blocks`."""

    def kept(self, images: int) -> list[int]:
        """Bytes of each block for a micro-batch."""
        return [constant + images * each for constant, each in self.blocks]

    def activation_bytes(self, images: int, recomputed: Sequence[bool]) -> int:
        """At the end of the forward pass, and once more the largest block that is recomputed."""
        kept = self.kept(images)
        again = [size for size, is_recomputed in zip(kept, recomputed, strict=True) if is_recomputed]
        inputs = sum(size for size, is_recomputed in zip(self.inputs, recomputed, strict=True) if is_recomputed)
        return self.rest[0] + images * (self.rest[1] + inputs) + sum(kept) - sum(again) + max(again, default=0)


def cost(build: Callable[[], Any], image_size: int, dtype: torch.dtype = torch.float32) -> Cost:
    """Of a backbone as in `fd_scale.models`, or of any module that takes images; without `call_block` it has no blocks.

    Args:
        build: makes it; without drop path, whose draws are not counted.
    """
    with torch.device("meta"):  # not on fake tensors: timm's constructors look at values
        module = build().train()
    with FakeTensorMode():
        for owner in module.modules():
            parameters = {name: p for name, p in owner._parameters.items() if p is not None}
            buffers = {name: b for name, b in owner._buffers.items() if b is not None}
            owner._parameters.update(
                {n: nn.Parameter(torch.empty(p.shape, dtype=dtype)) for n, p in parameters.items()}
            )
            owner._buffers.update({n: torch.empty(b.shape, dtype=b.dtype) for n, b in buffers.items()})
        # Not one image: where the batch is 1, some operations give views that otherwise copy.
        two, three = (_forward(module, torch.empty(b, 3, image_size, image_size, dtype=dtype)) for b in (2, 3))
    blocks = [_line(*sizes) for sizes in zip(two.blocks, three.blocks, strict=True)]
    inputs = [_line(*sizes)[1] for sizes in zip(two.inputs, three.inputs, strict=True)]
    return Cost((three.flop - two.flop) // 2, blocks, inputs, _line(two.rest, three.rest))


@dataclass(frozen=True)
class StateBytes:
    """Of one rank."""

    weights: float
    gradients: float
    optimizer: float
    """Master weights, Adam's two states, and the moving average where there is one."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def state_bytes(parameters: int, stage: int, world: int, precision: str, ema: bool = False) -> StateBytes:
    """Of a trained model under ZeRO with AdamW.

    bf16: 2 bytes of weight, 4 of gradient (summed in fp32), 4 of master weight and 8 of Adam's states: 18 a parameter.
    fp32: 4 of weight, 4 of gradient, 4 of ZeRO's own flat copy and 8: 20. Stage 1 spreads the optimizer over the ranks,
    stage 2 the gradients as well, stage 3 the weights as well.
    """
    weight = 2 if precision == "bf16" else 4
    shares = [1 / world if stage >= needed else 1.0 for needed in (3, 2, 1)]
    each = (weight, 4, 12 + 4 * ema)
    return StateBytes(*(parameters * size * share for size, share in zip(each, shares, strict=True)))


def frozen_bytes(parameters: int, world: int, precision: str, sharded: bool) -> float:
    """Of a teacher on one rank: its weights, replicated or spread."""
    return parameters * (2 if precision == "bf16" else 4) / (world if sharded else 1)


def table(rows: Sequence[tuple[str, str]], indent: str = "  ") -> str:
    """Two columns as text, the second flush right."""
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{indent}{name:<{left}}  {value:>{right}}" for name, value in rows)


@dataclass
class _Forward:
    flop: int
    blocks: list[int]
    inputs: list[int]
    rest: int


def _line(of_two: int, of_three: int) -> tuple[int, int]:
    """Whatever the batch, and per image."""
    return 3 * of_two - 2 * of_three, of_three - of_two


def _forward(module: Any, images: Tensor) -> _Forward:
    seen = {_storage(parameter) for parameter in module.parameters()}
    alive: list[Tensor] = []  # or the place of one that is gone would be taken for another's
    blocks: list[int] = []
    inputs: list[int] = []

    def call_block(block: nn.Module, tokens: Tensor, *arguments: Any) -> Tensor:
        inputs.append(tokens.nbytes)
        with _kept(seen, alive) as sizes:
            result = block(tokens, *arguments)
        blocks.append(sum(sizes))
        return result

    module.call_block = call_block
    with FlopCounterMode(display=False) as counter, _kept(seen, alive) as rest:
        module(images)
    return _Forward(counter.get_total_flops(), blocks, inputs, sum(rest))


@contextmanager
def _kept(seen: set[int], alive: list[Tensor]) -> Iterator[list[int]]:
    """Bytes of each tensor's memory that autograd keeps for the first time; views share it."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        place = _storage(tensor)
        if place not in seen:
            seen.add(place)
            alive.append(tensor)
            sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _part(name: str) -> str:
    """layers.2.blocks.17.attn.qkv.weight -> layers.2.blocks; head.weight -> head."""
    path = name.split(".")[:-1] or [name]
    if "blocks" in path:
        return ".".join(path[: path.index("blocks") + 1])
    return re.match(r"(?:[a-z_]+\.\d+\.)?[^.]+", ".".join(path)).group()  # type: ignore[union-attr]
