"""Validation of a classifier: how many images it gets right, and its loss."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.parallel.ranks import Ranks, sum_over_ranks

METRICS = ("accuracy", "accuracy_top5", "validation_loss")
"""Of a validation; with `ema_` before them those of the moving average."""


def validate(
    model: Callable[[Tensor], Tensor],
    data: EvaluationData,
    statistics: tuple[Sequence[float], Sequence[float]],
    batch: int,
    ranks: Ranks,
    dtype: torch.dtype = torch.float32,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Compute accuracy and loss over every image once. Collective.

    Args:
        model: normalised images (B, 3, H, W) -> logits (B, K), in eval mode.
        alive: called for each batch.

    Raises:
        BadInput: the logits are not finite, on every rank.
    """
    sums = torch.zeros(4, dtype=torch.float64)  # images, correct, correct among five, loss
    with torch.no_grad():
        for found in data.batches(ranks.rank, ranks.world, batch):
            alive()
            view = normalise(found.images.to(ranks.device), *statistics).to(dtype)
            logits = model(view).float()[found.real.to(ranks.device)]  # (R, K) of the real ones
            sums += _sums(logits, found.labels[found.real].to(logits.device))
    images, correct, among_five, loss = sum_over_ranks(sums.tolist())
    if not math.isfinite(loss):
        raise BadInput(
            f"the loss over {data.source} is {loss}: the model gives NaN or infinity there, so its accuracy would say "
            f"nothing; look at its weights and its precision",
            agreed=True,
        )
    return dict(zip(METRICS, (correct / images, among_five / images, loss / images), strict=True))


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, K), (R,) -> images, correct, correct among five, loss."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (R, 5)
    hits = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")  # 0 of none
    return torch.tensor([len(labels), int(hits[:, 0].sum()), int(hits.any(dim=1).sum()), float(loss)]).double()
