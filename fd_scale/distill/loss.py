"""The difference between prediction and target, one number for each image."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    beta: float = 2.0
    """Of SmoothL1: quadratic below, linear above; 2.0 in arXiv 2205.14141."""


def smooth_l1_per_image(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """(B, T, C) twice -> (B,) fp32, the mean over tokens and channels. Their mean is the published loss."""
    return F.smooth_l1_loss(prediction.float(), target, beta=beta, reduction="none").mean(dim=(1, 2))
