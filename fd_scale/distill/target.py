"""From the teacher's tokens to the student's target (arXiv 2205.14141, section 3).

Teacher tokens arrive after the teacher's own final norm. Letters: B images, P prefix tokens, L = h*w map tokens,
C channels of the teacher.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fd_scale.errors import BadInput


@dataclass(frozen=True)
class TargetConfig:
    normalise: Literal["whiten", "l2", "none"] = "whiten"
    prefix: Literal["auto", "keep", "drop"] = "auto"
    """CLS and register tokens: "auto" keeps them when the student has as many (published: every token counts)."""


@dataclass(frozen=True)
class TokenMatch:
    """Which tokens of the teacher and of the student face each other."""

    skip_teacher: int
    skip_student: int


def match_tokens(
    config: TargetConfig,
    *,
    teacher_prefix: int,
    student_prefix: int,
    teacher_grid: tuple[int, int],
    student_grid: tuple[int, int],
    image_size: int,
) -> TokenMatch:
    """Decide it once, before training.

    Raises:
        BadInput: grids differ, or `prefix: keep` with different numbers of prefix tokens.
    """
    if teacher_grid != student_grid:
        raise BadInput(
            f"at {image_size} px the teacher's token grid is {_by(teacher_grid)} and the student's {_by(student_grid)};"
            f" choose a student.patch_size or a student whose stride is the teacher's"
        )
    same = teacher_prefix == student_prefix
    if config.prefix == "keep" and not same:
        raise BadInput(
            f"target.prefix is `keep`, but the teacher has {teacher_prefix} prefix tokens and the student "
            f"{student_prefix}; set target.prefix=drop"
        )
    if config.prefix == "drop" or not same:
        return TokenMatch(teacher_prefix, student_prefix)
    return TokenMatch(0, 0)


def make_target(tokens: Tensor, normalise: str, match: TokenMatch) -> Tensor:
    """(B, P+L, C) of the teacher -> (B, T, C) fp32.

    Whitening is LayerNorm without affine (eps 1e-5) over channels: it takes away what differs between teachers in
    scale, so that one learning rate serves all.
    """
    tokens = tokens[:, match.skip_teacher :].float()
    if normalise == "whiten":
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)
    if normalise == "l2":
        return F.normalize(tokens, dim=-1)
    return tokens


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
