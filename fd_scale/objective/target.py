"""Matching of the teacher's tokens and the student's (arXiv 2205.14141, section 3 and its ablations).

Teacher tokens arrive after the teacher's own final norm. What they are normalised to is the business of `normalise`.
Letters: B images, P prefix tokens, L = h*w map tokens, T tokens that face each other, C channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.objective.config import TargetConfig

Grid = tuple[int, int]


@dataclass(frozen=True)
class TokenMatch:
    """Match of tokens: how those of both sides come to face each other."""

    skip_teacher: int = 0
    skip_student: int = 0
    prefix: int = 0
    """Of the T tokens, those before the map."""
    pooled: bool = False
    """T = 1: the mean of what is not skipped, on both sides."""
    resize: tuple[Grid, Grid] | None = None
    """The teacher's grid, and the student's that its map is brought to."""

    @property
    def observed(self) -> float:
        """Share of T tokens that the teacher made itself; below 1 where enlarging its map adds some in between."""
        if self.resize is None:
            return 1.0
        there, here = (self.prefix + height * width for height, width in self.resize)
        return min(1.0, there / here)


def match_tokens(
    config: TargetConfig,
    *,
    teacher: str,
    teacher_prefix: int,
    student_prefix: int,
    teacher_grid: Grid,
    student_grid: Grid,
    image_size: int,
) -> TokenMatch:
    """Decide how the tokens of teacher and student match, once, before training.

    Args:
        teacher: what to call it in errors.

    Raises:
        BadInput: grids differ and are not to be resized, or `prefix: keep` where there is nothing to keep.
    """
    if config.kind != "feature_map":
        for key, given, default in (("prefix", config.prefix, "auto"), ("resize", config.resize, "none")):
            if given != default:
                raise BadInput(
                    f"target.{key}={given} is for target.kind=feature_map; remove it: {config.kind} has no map"
                )
        return TokenMatch(teacher_prefix, student_prefix, pooled=True)
    resize = None
    if teacher_grid != student_grid:
        if config.resize == "none":
            raise BadInput(
                f"at {image_size} px the teacher's token grid is {_by(teacher_grid)} and the student's "
                f"{_by(student_grid)} ({teacher}); choose a student.patch_size or a student whose stride is the "
                f"teacher's, or set target.resize=bilinear"
            )
        resize = (teacher_grid, student_grid)
    same = teacher_prefix == student_prefix
    if config.prefix == "keep" and not same:
        raise BadInput(
            f"target.prefix is `keep`, but the teacher has {teacher_prefix} prefix tokens and the student "
            f"{student_prefix} ({teacher}); set target.prefix=drop"
        )
    if config.prefix == "drop" or not same:
        return TokenMatch(teacher_prefix, student_prefix, resize=resize)
    return TokenMatch(prefix=teacher_prefix, resize=resize)


def teacher_side(tokens: Tensor, match: TokenMatch) -> Tensor:
    """Bring the teacher's tokens (B, P+L, C), or its logits as (B, 1, C), to (B, T, C), at least fp32."""
    tokens = tokens[:, match.skip_teacher :]
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    if match.pooled:
        return tokens.mean(dim=1, keepdim=True)
    if match.resize is None:
        return tokens
    there, here = match.resize
    prefix, token_map = tokens.tensor_split([match.prefix], dim=1)
    planes = token_map.transpose(1, 2).unflatten(2, there)  # (B, C, h, w)
    planes = F.interpolate(planes, here, mode="bilinear", antialias=True)
    return torch.cat([prefix, planes.flatten(2).transpose(1, 2)], dim=1)


def student_side(tokens: Tensor, match: TokenMatch) -> Tensor:
    """Bring the student's tokens (B, P+L, C) to (B, T, C)."""
    tokens = tokens[:, match.skip_student :]
    return tokens.mean(dim=1, keepdim=True) if match.pooled else tokens


def _by(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"
