"""Linear probe of frozen features: a sweep of learning rates in one pass, every one with a classifier of its own.

Source: the released code of arXiv 2205.14141, which follows MAE: BatchNorm without affine, a linear layer, LARS, a
cosine after a warm-up. No rate is published, so several are tried; features are computed once, of the central crop,
where the released code augments anew in each pass.

A global batch is a slice of one random order of all images; each rank takes the images whose features it holds, and
sums over ranks make the result that of one process.

Letters: B images of this rank in a batch, C channels, K classes, R learning rates.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.optim import Lars
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.evaluate.config import LinearConfig
from fd_scale.evaluate.features import Features
from fd_scale.finite import all_finite
from fd_scale.parallel.ranks import Ranks, sum_over_ranks
from fd_scale.progress import Progress
from fd_scale.train.config import ScheduleConfig
from fd_scale.train.schedule import make_schedule

NORM_EPS = 1e-6
MOMENTUM = 0.1
"""Of the running statistics that evaluation uses."""
HEAD_STD = 0.01


def linear_accuracy(
    train: Features, validation: Features, config: LinearConfig, ranks: Ranks, progress: Progress
) -> dict[float, float]:
    """Compute the share of validation images that the classifier of each base rate gets right. Collective.

    Raises:
        BadInput: no rates, or one that is not above 0.
    """
    if not config.base_lrs or min(config.base_lrs) <= 0:
        raise BadInput(f"linear.base_lrs={list(config.base_lrs)}: give at least one rate, all above 0")
    batch = min(config.batch, train.samples)
    steps_in_pass = train.samples // batch
    schedules = [
        make_schedule(
            ScheduleConfig(
                epochs=config.epochs,
                warmup_epochs=config.warmup_epochs,
                base_lr=rate,
                warmup_base_lr=0.0,
                min_base_lr=0.0,
            ),
            batch,
            steps_in_pass,
        )
        for rate in config.base_lrs
    ]
    probe = Probe(train.values.shape[1], train.classes, config, ranks)
    values, labels = train.values.to(ranks.device), train.labels.to(ranks.device)
    for step in progress(range(schedules[0].steps), schedules[0].steps, "linear probe"):
        local = _local_rows(train, config.seed, step, batch, steps_in_pass)
        rates = [schedule.learning_rate(step) for schedule in schedules]
        probe.step(values[local], labels[local], batch, rates)
    for rate, weight in zip(config.base_lrs, probe.weights, strict=True):  # the same on every rank
        if not all_finite(weight):
            raise BadInput(f"linear.base_lrs: the classifier of {rate:g} diverged; leave it out", agreed=True)
    right = probe.right(validation.values.to(ranks.device), validation.labels.to(ranks.device))
    counts = sum_over_ranks(right.tolist()) if ranks.world > 1 else right.tolist()
    return {rate: count / validation.samples for rate, count in zip(config.base_lrs, counts, strict=True)}


class Probe:
    """R linear classifiers on one set of normalised features. All methods that say so are collective."""

    def __init__(self, width: int, classes: int, config: LinearConfig, ranks: Ranks):
        generator = torch.Generator().manual_seed(config.seed)
        one = torch.empty(classes, width)
        nn.init.trunc_normal_(one, std=HEAD_STD, generator=generator)
        count = len(config.base_lrs)
        self.weights = [nn.Parameter(one.clone().to(ranks.device)) for _ in range(count)]
        self.biases = [nn.Parameter(torch.zeros(classes, device=ranks.device)) for _ in range(count)]
        self.mean = torch.zeros(width, device=ranks.device)
        self.var = torch.ones(width, device=ranks.device)
        # As published: rates adapt to the norm of matrices only, and biases are not decayed.
        adapted = {"always_adapt": True, "weight_decay": config.weight_decay}
        groups = [{"params": [weight], **adapted} for weight in self.weights]
        groups += [{"params": [bias]} for bias in self.biases]
        self.optimizer = Lars(groups, lr=0.0, momentum=0.9)
        self.ranks = ranks

    def step(self, features: Tensor, labels: Tensor, batch: int, rates: list[float]) -> None:
        """Train each classifier on features (B, C) of this rank, of a global batch of `batch` images. Collective."""
        mean, var = self._statistics(features, batch)
        inputs = (features - mean) / (var + NORM_EPS).sqrt()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            loss = F.cross_entropy(F.linear(inputs, weight, bias), labels, reduction="sum") / batch
            loss.backward()
        self._sum([parameter.grad for parameter in (*self.weights, *self.biases)])
        for group, rate in zip(self.optimizer.param_groups, rates * 2, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def right(self, features: Tensor, labels: Tensor) -> Tensor:
        """Count how many of this rank's images (B, C) each classifier gets right. Returns (R,)."""
        inputs = (features - self.mean) / (self.var + NORM_EPS).sqrt()
        hits = [
            (F.linear(inputs, weight, bias).argmax(dim=1) == labels).sum()
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return torch.stack(hits).double()

    def _statistics(self, features: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Of the global batch, (C,) each; the running ones move towards them. Collective."""
        mean = features.sum(dim=0) / batch
        self._sum([mean])
        var = (features - mean).square().sum(dim=0) / batch
        self._sum([var])
        self.mean += MOMENTUM * (mean - self.mean)
        self.var += MOMENTUM * (var * batch / max(batch - 1, 1) - self.var)
        return mean, var

    def _sum(self, tensors: Iterable[Tensor | None]) -> None:
        if self.ranks.world > 1:
            for tensor in tensors:
                assert tensor is not None
                dist.all_reduce(tensor)


def _local_rows(train: Features, seed: int, step: int, batch: int, steps_in_pass: int) -> Tensor:
    """The features of this rank that belong to the global batch of a step."""
    data_pass, within = divmod(step, steps_in_pass)
    order = np.random.default_rng((seed, data_pass)).permutation(train.samples)
    rows = order[within * batch : (within + 1) * batch] - train.first
    return torch.from_numpy(rows[(rows >= 0) & (rows < len(train.values))])
