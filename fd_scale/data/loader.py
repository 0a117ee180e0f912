"""The micro-batches of one rank, read from shards, from any step on."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fd_scale.batch_plan import BatchPlan
from fd_scale.children import hear_of_deaths_only_while_waiting
from fd_scale.data.augment import transform
from fd_scale.data.classes import Classes, Match, classes_of_data, unite
from fd_scale.data.config import DataConfig, ViewConfig
from fd_scale.data.decode import BadSample, decode
from fd_scale.data.loading import batches_of, make_loader
from fd_scale.data.order import Draw, Order
from fd_scale.data.reader import Reader, open_reader
from fd_scale.data.view import random_view
from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys

TRIES = 16  # neighbours that may replace a bad sample


@dataclass(frozen=True)
class Batch:
    images: Tensor
    """(B, 3, H, W) uint8"""
    ids: list[str]
    positions: list[int]
    """Of each image in the global batch."""
    step: int
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of samples that were replaced by others."""
    labels: Tensor | None = None
    """(B,) int64, where they were asked for; in the numbers of `TrainingData.classes`."""
    keys: Tensor | None = None
    """(B,) int64; whatever is random about a sample comes from its key (`fd_scale.keyed`)."""

    def to(self, device: torch.device, seed: int) -> "Batch":
        """Move the batch to the device, with the keys of its samples."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        keys = moved(sample_keys(seed, self.step, self.positions))
        labels = None if self.labels is None else moved(self.labels)
        return replace(self, images=moved(self.images), labels=labels, keys=keys)


class TrainingData:
    """The data sets of a run and their order; the same on every rank.

    Raises:
        BadInput: a data set that is missing or damaged.
    """

    def __init__(self, config: DataConfig, seed: int, labelled: bool = False):
        """`labelled`: batches carry labels."""
        if not config.sources:
            raise BadInput("data.train names no data set; give a folder that `fd-scale pack` wrote")
        self.config, self.seed, self.labelled = config, seed, labelled
        view = config.view
        if view.augment.active:
            transform(view.augment, view.interpolation, (view.image_size, view.image_size))
        self.readers = [open_reader(source) for source in config.sources]
        self.classes: Classes | None = None
        self.matches: list[Match] = []
        if labelled:
            self.classes, self.matches = self._united()
        shards = [reader.shard_samples for reader in self.readers]
        self.order = Order(shards, seed, config.order, list(config.sources.values()))
        self._plan = _Plan(iter(()))
        self._started: DataLoader | None = None

    @property
    def lines(self) -> list[str]:
        """Notes on the classes for the user."""
        return [found.line for found in self.matches if found.line]

    def fingerprint(self) -> dict[str, dict[str, str | float]]:
        """Fingerprint of the data of each source."""
        return {
            source: {"sha256": reader.fingerprint(), "weight": weight}
            for (source, weight), reader in zip(self.config.sources.items(), self.readers, strict=True)
        }

    def start_workers(self, pin_memory: bool = False) -> None:
        """Start the decoding processes, for all calls of `micro_batches` to come.

        Call it before models are built. A worker is a fork, which keeps every page of its parent as it was: one that is
        started later costs a rank whose model lies in host memory that model once more, as soon as it is trained.

        What exists by now is left out of all later garbage collections, here and in the workers: a collection writes to
        every object that it looks at, and so copies the pages that the processes share, some 80 MB for each worker.
        """
        if self.config.workers:
            gc.collect()
            gc.freeze()
        self._started = self._loader(self._plan, pin_memory, persistent_workers=self.config.workers > 0)
        iter(self._started)  # of an empty plan: starts the workers, which then wait
        hear_of_deaths_only_while_waiting()

    def micro_batches(self, steps: range, rank: int, plan: BatchPlan) -> Iterator[Batch]:
        """Yield all micro-batches of `rank` for `steps`, in order.

        After `start_workers`, make one call at a time.

        Raises:
            BadInput: a sample that no neighbour can replace, a damaged index or label.
            Retry: storage failed.
        """
        draws = (
            self.order.micro_batch(
                step, m, rank, global_batch=plan.global_batch, micro_batch=plan.micro_batch, world=plan.world
            )
            for step in steps
            for m in range(plan.accumulation)
        )
        if self._started is None:
            loader = self._loader(_Plan(draws))
        else:
            loader, self._plan.plan = self._started, draws
        for images, ids, positions, step, bad, labels in batches_of(loader):
            if images is None:
                raise BadInput(
                    f"sample {ids[0]} and {TRIES - 1} after it cannot be used ({bad[0][1]}); pack them again"
                )
            yield Batch(images, ids, positions, step, bad, labels)

    def _loader(self, plan: "_Plan", pin_memory: bool = False, persistent_workers: bool = False) -> DataLoader:
        numbers = [found.numbers for found in self.matches] if self.labelled else None
        views = ViewDataset(self.readers, self.config.view, self.seed, numbers)
        return make_loader(
            views,
            self.config.workers,
            _collate,
            batch_sampler=plan,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )

    def _united(self) -> tuple[Classes, list[Match]]:
        """The classes of all data sets together, and each one's numbers told in theirs."""
        pairs = zip(self.readers, self.config.sources, strict=True)
        return unite([classes_of_data(reader.classes, sum(reader.shard_samples), source) for reader, source in pairs])


@dataclass(frozen=True)
class View:
    image: Tensor | None
    id: str
    draw: Draw
    bad: list[tuple[str, str]]
    label: int | None = None


class ViewDataset(Dataset):
    """Views by draw: `dataset[draw]` is the view at that position of the global batch.

    A bad sample is replaced by the next good one in its shard (after the last comes the first), so every process picks
    the same image and no rank falls behind.
    """

    def __init__(
        self, readers: Sequence[Reader], view: ViewConfig, seed: int, numbers: Sequence[dict[int, int]] | None = None
    ):
        """`numbers`: where views carry labels, for each reader its own number of a class -> that of the run."""
        self.readers, self.view, self.seed, self.numbers = readers, view, seed, numbers
        self._first = [np.concatenate([[0], np.cumsum(reader.shard_samples)]) for reader in readers]

    def __getitem__(self, draw: Draw) -> View:
        bad: list[tuple[str, str]] = []
        for number in self._candidates(draw):
            sample = self.readers[draw.dataset][number]
            try:
                image = decode(sample.content)
            except BadSample as error:
                bad.append((sample.id, error.reason))
            else:
                view = random_view(image, self.view, self.seed, draw.step, draw.position)
                return View(view, sample.id, draw, bad, self._label(draw.dataset, number))
        return View(None, bad[0][0], draw, bad)

    def _label(self, dataset: int, number: int) -> int | None:
        return None if self.numbers is None else self.numbers[dataset][self.readers[dataset].label(number)]

    def _candidates(self, draw: Draw) -> list[int]:
        borders = self._first[draw.dataset]
        shard = int(np.searchsorted(borders, draw.sample, side="right")) - 1
        first, size = int(borders[shard]), int(borders[shard + 1] - borders[shard])
        return [first + (draw.sample - first + step) % size for step in range(min(TRIES, size))]


class _Plan:
    """A sampler that can be iterated once for each `plan`, which is already a pure function of where we are."""

    def __init__(self, plan: Iterator[list[Draw]]):
        self.plan = plan

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.plan


Collated = tuple[Tensor | None, list[str], list[int], int, list[tuple[str, str]], Tensor | None]


def _collate(views: list[View]) -> Collated:
    # A tuple, because pinning memory looks into tuples and not into dataclasses.
    step = views[0].draw.step
    hopeless = [view for view in views if view.image is None]
    if hopeless:
        return None, [hopeless[0].id], [], step, hopeless[0].bad, None
    images = torch.stack([view.image for view in views if view.image is not None])
    bad = [entry for view in views for entry in view.bad]
    labels = [view.label for view in views if view.label is not None]
    of_all = torch.tensor(labels) if labels else None
    return images, [view.id for view in views], [view.draw.position for view in views], step, bad, of_all
