"""Explained variance: how much of the target a prediction explains."""

from torch import Tensor


def explained_variance(prediction: Tensor, target: Tensor) -> float:
    """Compute the share of the target's variance that the prediction explains: 1 - residual / total, at most 1.

    Args:
        prediction, target: (N, C), one row for each token. The total is taken about each channel's mean over the N
            rows, so a constant prediction explains at most 0, and one worse than the best constant less than 0.
    """
    residual = (prediction.double() - target.double()).square().sum()
    total = (target.double() - target.double().mean(dim=0)).square().sum()
    return float(1 - residual / total)
