"""Weighted k-nearest-neighbour classification of frozen features: how good is a model as it is, without training.

Source: DINO (arXiv 2104.14294, from arXiv 1805.01978): cosine similarity, each of the k nearest votes with
exp(similarity / temperature). Training features stay on their ranks; each finds its nearest, and these are merged.

Letters: N training and V validation images of all ranks, n of this one, C channels, K classes.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.evaluate.config import KnnConfig
from fd_scale.evaluate.features import Features
from fd_scale.parallel.ranks import Ranks

BLOCK = 1024
"""Validation images whose similarities are held at a time."""


def check_knn(images: int, config: KnnConfig, section: str) -> None:
    """Check k before anything is computed. `images`: number of training images.

    Raises:
        BadInput: k is not in 1..N.
    """
    wrong = [k for k in config.k if not 1 <= k <= images]
    if wrong or not config.k:
        raise BadInput(f"k of {list(config.k)}: choose numbers from 1 to {images}, the images of {section}.train")


def knn_accuracy(train: Features, validation: Features, config: KnnConfig, ranks: Ranks) -> dict[int, float]:
    """Compute the share of validation images that each k classifies rightly; see `check_knn`. Collective."""
    bank = F.normalize(train.values.to(ranks.device), dim=1)  # (n, C)
    labels = train.labels.to(ranks.device)
    right = dict.fromkeys(config.k, 0)
    for queries, truth in _everywhere(validation, ranks):
        similarity, found = _nearest(F.normalize(queries, dim=1), bank, labels, max(config.k), ranks)
        for k, votes in _votes(similarity, found, config, train.classes).items():
            right[k] += int((votes.argmax(dim=1) == truth).sum())
    return {k: count / validation.samples for k, count in right.items()}


def _everywhere(features: Features, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """All ranks' features, block by block, on every rank. Collective."""
    for source, count in enumerate(features.counts):
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            values = torch.empty(size, features.values.shape[1], device=ranks.device)
            labels = torch.empty(size, dtype=torch.int64, device=ranks.device)
            if source == ranks.rank:
                values.copy_(features.values[start : start + size])
                labels.copy_(features.labels[start : start + size])
            if ranks.world > 1:
                dist.broadcast(values, src=source)
                dist.broadcast(labels, src=source)
            yield values, labels


def _nearest(queries: Tensor, bank: Tensor, labels: Tensor, k: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """(V, C) -> similarity and label (V, k) of the nearest over all ranks, nearest first. Collective."""
    similarities = queries @ bank.T  # (V, n)
    similarity, at = similarities.topk(min(k, similarities.shape[1]), dim=1)
    missing = k - similarity.shape[1]
    similarity = F.pad(similarity, (0, missing), value=-torch.inf)
    found = F.pad(labels[at], (0, missing))
    if ranks.world > 1:
        similarity, found = (_beside(tensor, ranks) for tensor in (similarity, found))
        similarity, order = similarity.topk(k, dim=1)
        found = found.gather(1, order)
    return similarity, found


def _beside(tensor: Tensor, ranks: Ranks) -> Tensor:
    """(V, k) of each rank -> (V, world * k)."""
    parts = [torch.empty_like(tensor) for _ in range(ranks.world)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim=1)


def _votes(similarity: Tensor, found: Tensor, config: KnnConfig, classes: int) -> dict[int, Tensor]:
    """(V, k) -> for each k the votes (V, K)."""
    # Against the nearest, which leaves the order of votes as it is and never overflows, whatever the temperature.
    relative = similarity - similarity[:, :1]
    weight = (relative / config.temperature).exp() if config.temperature > 0 else torch.ones_like(similarity)
    votes: dict[int, Tensor] = {}
    for k in sorted(config.k):
        empty = torch.zeros(len(found), classes, dtype=weight.dtype, device=weight.device)
        votes[k] = empty.scatter_add(1, found[:, :k], weight[:, :k])
    return votes
