"""Size of a model, without a GPU: parameters and multiply-adds of any module.

Modules are built on the meta device and run on fake tensors (`FakeTensorMode`), which have shapes and types and no
memory, so the size does not matter. What is counted is what the module runs, not a formula.

Left out: memory (`live_bytes`, `memory`), time and the network.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fd_scale.live_bytes import on_fake_tensors

GIB = 2**30


def parameters_by_part(module: nn.Module) -> dict[str, int]:
    """Count the parameters of each part, in the module's order; repeated blocks count as one part.

    Works on the meta device, so the size does not matter.
    """
    parts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        parts[_part(name)] += parameter.numel()
    return dict(parts)


def multiply_adds(build: Callable[[], Any], image_size: int, dtype: torch.dtype = torch.float32) -> int:
    """Count the multiply-adds of matrix products, convolutions and attention for one image.

    They are half of what is called FLOP.

    The difference of three images and two, so what does not depend on the batch (its position bias) is not counted.

    Args:
        build: makes a module that takes images; without drop path, whose draws are not counted.
    """
    with torch.device("meta"):  # not on fake tensors: timm's constructors look at values
        module = build().train()
    with FakeTensorMode():
        on_fake_tensors(module, dtype)
        two, three = (_flop(module, torch.empty(b, 3, image_size, image_size, dtype=dtype)) for b in (2, 3))
    return (three - two) // 2


def table(rows: Sequence[tuple[str, str]], indent: str = "  ") -> str:
    """Format two columns as text, the second flush right."""
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{indent}{name:<{left}}  {value:>{right}}" for name, value in rows)


def _flop(module: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops()


def _part(name: str) -> str:
    """layers.2.blocks.17.attn.qkv.weight -> layers.2.blocks; head.weight -> head."""
    path = name.split(".")[:-1] or [name]
    if "blocks" in path:
        return ".".join(path[: path.index("blocks") + 1])
    return re.match(r"(?:[a-z_]+\.\d+\.)?[^.]+", ".".join(path)).group()  # type: ignore[union-attr]
