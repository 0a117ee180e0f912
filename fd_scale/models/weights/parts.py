"""Tensors of a file on their way into a model, and what came of them."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from fd_scale.models.weights.report import LoadReport

Windows = tuple[int, ...]
"""Side in tokens of the window of each stage."""


@dataclass(frozen=True)
class Fitted:
    """Tensors of a file as they fit a model.

    `tensors`: by the model's names and in its shapes, in the file's types; all of them if `report.complete`.

    trained_windows: those that the position bias was trained in, by the file, for a model with windows; None where the
        file does not say.
    """

    tensors: dict[str, Tensor]
    report: LoadReport
    trained_windows: Windows | None


@dataclass
class Parts:
    """Tensors on their way into a model, by our names.

    Kept beside them: which tensor of the file each comes from, and what was done to them.
    """

    tensors: dict[str, Tensor]
    sources: dict[str, str]
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)  # by the file's names, with the reason
    notes: list[str] = field(default_factory=list)

    def take(self, name: str) -> tuple[Tensor, str]:
        return self.tensors.pop(name), self.sources.pop(name)

    def put(self, name: str, tensor: Tensor, source: str) -> None:
        self.tensors[name], self.sources[name] = tensor, source

    def drop(self, name: str, why: str) -> None:
        self.dropped[self.take(name)[1]] = why

    def matching(self, pattern: str) -> list[str]:
        return [name for name in self.tensors if re.fullmatch(pattern, name)]
