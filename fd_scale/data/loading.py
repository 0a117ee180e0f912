"""torch's DataLoader, with three promises.

A worker never outlives its rank, an error in it stays one line, and so does its death.

Errors travel from worker to rank as values. An exception would reach it with the worker's traceback in its text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from fd_scale.children import EndWithParent, told_of_deaths
from fd_scale.errors import Expected


@dataclass(frozen=True)
class _Failure:
    error: Expected


class _Carrying(Dataset):
    """A data set whose expected errors are values."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Any) -> Any:
        try:
            return self.dataset[draw]
        except Expected as error:
            return _Failure(error)


@dataclass(frozen=True)
class _Collate:
    inner: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        failed = next((item for item in items if isinstance(item, _Failure)), None)
        return failed or self.inner(items)


def make_loader(
    dataset: Dataset, workers: int, collate: Callable[[list[Any]], Any] = default_collate, **options: Any
) -> DataLoader:
    """Make a loader for `batches_of`, which decodes in `workers` processes; 0: in this one.

    Args:
        options: of torch's DataLoader, such as `batch_size`.
    """
    return DataLoader(
        _Carrying(dataset),
        num_workers=workers,
        collate_fn=_Collate(collate),
        worker_init_fn=EndWithParent(),
        **options,
    )


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """Yield the batches of a loader.

    Raises:
        Expected: what the data set raised, here.
        RuntimeError: a worker died; in torch's words, which say of what.
    """
    for batch in told_of_deaths(loader, lambda: iter(loader)):
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch


def load(
    dataset: Dataset, workers: int, collate: Callable[[list[Any]], Any] = default_collate, **options: Any
) -> Iterator[Any]:
    """Yield the batches of a data set; arguments and errors are those of `make_loader` and `batches_of`."""
    return batches_of(make_loader(dataset, workers, collate, **options))
