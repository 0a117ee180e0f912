"""The student with a projection to each teacher's width. All of it is trained; `student` alone is exported."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fd_scale.objective.target import TokenMatch, student_side


class StudentWithHeads(nn.Module):
    """Student and one head for each teacher.

    Images (B, 3, H, W), keys (B,) of the samples' random numbers -> one (B, T, Ct) for each teacher, in order.

    A head is the published 1x1 convolution, written as a linear map over tokens. That of the first teacher is `head`,
    those of the others `more_heads[name]`, as their sections in a configuration are called.
    """

    def __init__(
        self,
        student: Any,
        teacher_width: int,
        match: TokenMatch = TokenMatch(),  # noqa: B008  frozen
        more: Mapping[str, tuple[int, TokenMatch]] | None = None,
    ):
        """
        Args:
            student: a backbone of `fd_scale.models`, or what looks like one.
            more: (width, match) of further teachers by name.
        """
        super().__init__()
        more = more or {}
        self.student: Any = student
        self.head = nn.Linear(student.width, teacher_width)
        self.more_heads = nn.ModuleDict({name: nn.Linear(student.width, width) for name, (width, _) in more.items()})
        self.matches = [match, *(match for _, match in more.values())]

    def forward(self, images: Tensor, keys: Tensor | None = None) -> tuple[Tensor, ...]:
        tokens = self.student(images, keys)  # (B, P+L, Cs)
        heads = [self.head, *self.more_heads.values()]
        return tuple(head(student_side(tokens, match)) for head, match in zip(heads, self.matches, strict=True))

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter; the heads as torch's convolution does (uniform, fan-in)."""
        owner, _, rest = name.partition(".")
        if owner == "student":
            self.student.init_parameter(rest, parameter, generator)
        else:
            bound = 1 / math.sqrt(self.student.width)
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def no_weight_decay(self) -> set[str]:
        return {f"student.{name}" for name in self.student.no_weight_decay()}
