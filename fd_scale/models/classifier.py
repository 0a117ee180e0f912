"""A backbone with a linear classifier on the mean of its map tokens: the model that fine-tuning trains.

Source: the released code of feature distillation. A ViT loses the final norm that it was distilled with and gets a
fresh one behind the pooling (`fc_norm`); Swin keeps its own before it. Prefix tokens (CLS) are not pooled.

Letters: B batch, P prefix tokens, L map tokens, C channels, K classes.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fd_scale.models import init
from fd_scale.models.depth import depths

HEAD_STD = 0.02 * 0.001
"""Published: normal with 0.02, then all but zero, so that training starts from even odds."""
FC_NORM_EPS = 1e-6

Norm = Literal["fresh", "kept"]


class Classifier(nn.Module):
    """Backbone and linear head.

    Images (B, 3, H, W), keys (B,) of the samples' random numbers -> logits (B, K).

    The backbone is called `student`, as under distillation: recomputation and exports find it by that name.
    """

    def __init__(self, student: Any, classes: int, norm: Norm):
        super().__init__()
        if norm == "fresh":
            student.norm = nn.Identity()
        self.student = student
        self.fc_norm = nn.LayerNorm(student.width, eps=FC_NORM_EPS) if norm == "fresh" else nn.Identity()
        self.head = nn.Linear(student.width, classes)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        tokens = self.student(images, keys)  # (B, P+L, C)
        pooled = tokens[:, self.student.num_prefix_tokens :].mean(dim=1)  # (B, C)
        return self.head(self.fc_norm(pooled))

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter; the head as published."""
        owner, _, rest = name.partition(".")
        if owner == "student":
            self.student.init_parameter(rest, parameter, generator)
        elif name == "head.weight":
            init.truncated_normal(parameter, HEAD_STD, generator, cut=2)
        else:
            init.constant(parameter, 1.0 if name == "fc_norm.weight" else 0.0)

    def no_weight_decay(self) -> set[str]:
        return {f"student.{name}" for name in self.student.no_weight_decay()}

    def depths(self) -> dict[str, int]:
        """Depths of all parameters for layer-wise decay; norm and head come after the last block."""
        of_student = {f"student.{name}": depth for name, depth in depths(self.student).items()}
        return {name: of_student.get(name, self.last_depth) for name, _ in self.named_parameters()}

    @property
    def last_depth(self) -> int:
        return len(self.student.blocks()) + 1
