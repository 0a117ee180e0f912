"""Every image of a data set exactly once, over all ranks, in one fixed order: for validation and for features.

Each rank takes a run of neighbouring samples, so that reading stays sequential, and all ranks make the same number of
batches of one size, because under ZeRO-3 a forward pass is a collective. What fills up the last ones is marked.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fd_scale.data.classes import Classes, classes_of_data, match
from fd_scale.data.config import EvaluationView
from fd_scale.data.decode import BadSample, decode
from fd_scale.data.loading import load
from fd_scale.data.reader import Reader, open_reader
from fd_scale.data.view import evaluation_view
from fd_scale.errors import BadInput


@dataclass(frozen=True)
class EvaluationBatch:
    images: Tensor
    """(B, 3, H, W) uint8"""
    labels: Tensor
    """(B,) int64, in the numbers of `EvaluationData.classes`"""
    real: Tensor
    """(B,) bool; False for what only fills up."""


class EvaluationData:
    """A labelled data set to evaluate on; the same on every rank.

    Attributes: `classes`, which its labels number, and `lines`, what people must be told of them.

    Raises:
        BadInput: missing, damaged, or without labels; a class that is not among the known; a crop that is no share.
    """

    def __init__(self, source: str, image_size: int, view: EvaluationView, workers: int, known: Classes | None = None):
        """`known`: the classes of the training data or of a classifier; labels are converted to their numbers."""
        if not 0 < view.crop <= 1:
            raise BadInput(
                f"a crop of {view.crop} of the short side is not in (0, 1]; 0.875 is usual, 1 takes all of it"
            )
        self.source, self.image_size, self.view, self.workers = source, image_size, view, workers
        self.reader = open_reader(source)
        self.samples = sum(self.reader.shard_samples)
        of_the_data = classes_of_data(self.reader.classes, self.samples, source)
        self.classes = known or of_the_data
        found = match(of_the_data, self.classes)
        self._numbers = found.numbers
        self.lines = [found.line] if found.line else []

    def first_of(self, rank: int, world: int) -> int:
        """Number of the first sample of a rank."""
        return self.samples * rank // world

    def batches_of_a_rank(self, world: int, batch: int) -> int:
        return math.ceil(math.ceil(self.samples / world) / batch)

    def batches(self, rank: int, world: int, batch: int) -> Iterator[EvaluationBatch]:
        """Yield this rank's batches of exactly `batch` images, the same number of them on all ranks.

        Raises:
            BadInput: an image that does not decode: a result without it would not be comparable; a damaged index or
                label.
            Retry: storage failed.
        """
        numbers = list(range(self.first_of(rank, world), self.first_of(rank + 1, world)))
        count = self.batches_of_a_rank(world, batch)
        # A real image fills the gap, so that no special case reaches the model.
        padded = numbers + [numbers[-1] if numbers else 0] * (count * batch - len(numbers))
        views = _Views(self.reader, self._numbers, self.image_size, self.view, padded)
        for number, (images, labels, bad) in enumerate(load(views, self.workers, batch_size=batch)):
            if bool(bad.any()):
                sample = padded[number * batch + int(bad.nonzero()[0])]
                raise BadInput(
                    f"{self.source}: {self.reader[sample].id} does not decode; a result without it would not be "
                    f"comparable: `fd-scale verify {self.source}` names all such"
                )
            real = torch.arange(number * batch, (number + 1) * batch) < len(numbers)
            yield EvaluationBatch(images, labels, real)


def both_data(
    train: str, validation: str, image_size: int, view: EvaluationView, workers: int
) -> tuple[EvaluationData, EvaluationData]:
    """Open the training and validation data of a probe; the labels of both number the classes of training.

    Raises:
        BadInput: see `EvaluationData`.
    """
    first = EvaluationData(train, image_size, view, workers)
    return first, EvaluationData(validation, image_size, view, workers, first.classes)


class _Views(Dataset):
    def __init__(self, reader: Reader, numbers: dict[int, int], size: int, view: EvaluationView, samples: list[int]):
        self.reader, self.numbers, self.size, self.view, self.samples = reader, numbers, size, view, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, bool]:
        sample = self.samples[index]
        # A value, as all errors of workers: see `loading`.
        try:
            image = decode(self.reader[sample].content)
        except BadSample:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), 0, True
        return evaluation_view(image, self.size, self.view), self.numbers[self.reader.label(sample)], False
