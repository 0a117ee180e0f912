"""What a run is made of, without a GPU: parameters of any module by part, and how the global batch is cut.

Left to a later change: memory, FLOP and time of a cluster.
"""

import re
from collections import Counter

from torch import nn


def parameters_by_part(module: nn.Module) -> dict[str, int]:
    """Number of parameters of each part, in the module's order; repeated blocks count as one part.

    Works on the meta device, so the size does not matter.
    """
    parts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        parts[_part(name)] += parameter.numel()
    return dict(parts)


def table(rows: list[tuple[str, str]], indent: str = "  ") -> str:
    """Two columns as text, the second flush right."""
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{indent}{name:<{left}}  {value:>{right}}" for name, value in rows)


def _part(name: str) -> str:
    """layers.2.blocks.17.attn.qkv.weight -> layers.2.blocks; head.weight -> head."""
    path = name.split(".")[:-1] or [name]
    if "blocks" in path:
        return ".".join(path[: path.index("blocks") + 1])
    return re.match(r"(?:[a-z_]+\.\d+\.)?[^.]+", ".".join(path)).group()  # type: ignore[union-attr]
