"""The student with its projection to the teacher's width: what is trained, and of which `student` alone is exported."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class StudentWithHead(nn.Module):
    """images (B, 3, H, W), keys (B,) of the samples' random numbers -> (B, T, Ct).

    The head is the published 1x1 convolution, written as a linear map over tokens.
    """

    def __init__(self, student: Any, teacher_width: int, skip_prefix: int = 0):
        super().__init__()
        self.student: Any = student  # a backbone of `fd_scale.models`, or what looks like one
        self.head = nn.Linear(student.width, teacher_width)
        self.skip_prefix = skip_prefix

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        tokens = self.student(images, keys)  # (B, P+L, Cs)
        return self.head(tokens[:, self.skip_prefix :])  # (B, T, Ct)

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter; the head as torch's convolution does (uniform, fan-in)."""
        owner, _, rest = name.partition(".")
        if owner == "student":
            self.student.init_parameter(rest, parameter, generator)
        else:
            bound = 1 / math.sqrt(self.head.in_features)
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def no_weight_decay(self) -> set[str]:
        return {f"student.{name}" for name in self.student.no_weight_decay()}
