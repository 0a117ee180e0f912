"""The difference between prediction and target, one number for each image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.objective.config import LossConfig
from fd_scale.objective.target import TokenMatch


def check_loss(config: LossConfig, matches: dict[str, TokenMatch]) -> None:
    """Refuse settings that make no loss.

    Args:
        matches: of each teacher, by name.

    Raises:
        BadInput: a number that makes no loss, or a weight of tokens that no teacher keeps.
    """
    if not config.beta > 0:
        raise BadInput(f"loss.beta={config.beta:g} is not positive; published is 2.0, and loss.kind=mse has none")
    if not config.prefix_weight >= 0:
        raise BadInput(f"loss.prefix_weight={config.prefix_weight:g} is negative; give 0 or more")
    if config.prefix_weight != 1 and not any(match.prefix for match in matches.values()):
        raise BadInput(
            f"loss.prefix_weight={config.prefix_weight:g} weighs nothing: no prefix token of "
            f"{' or '.join(matches)} faces one of the student's; set it to 1"
        )


def loss_per_image(prediction: Tensor, target: Tensor, config: LossConfig, prefix: int = 0) -> Tensor:
    """Compute one loss (B,) for each image, at least fp32, from (B, T, C) twice.

    It is the mean over channels and the weighted mean over tokens.

    Args:
        prefix: tokens before the map.
    """
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    if config.kind == "cosine":
        tokens = 1 - F.cosine_similarity(prediction, target, dim=-1)  # (B, T)
    elif config.kind == "mse":
        tokens = F.mse_loss(prediction, target, reduction="none").mean(dim=-1)
    else:
        tokens = F.smooth_l1_loss(prediction, target, beta=config.beta, reduction="none").mean(dim=-1)
    if config.prefix_weight == 1:
        return tokens.mean(dim=1)
    weights = torch.ones(tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
    weights[:prefix] = config.prefix_weight
    return tokens @ weights / weights.sum()
