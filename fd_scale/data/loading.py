"""torch's DataLoader, with three promises: a worker never outlives its rank, an error in it stays one line, and its
death is noticed while a batch is waited for and nowhere else.

Errors travel from worker to rank as values. An exception would reach it with the worker's traceback in its text.

torch tells of a dead worker by an exception out of a signal handler, which may strike at any instruction of the rank,
more than once, or later than the torn message of that worker, which tells nobody why.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from fd_scale.children import EndWithParent
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

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.dataset[place]
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
    """A loader for `batches_of`, decoding in `workers` processes; 0: in this one.

    Args:
        options: of torch's DataLoader, such as `batch_size`.
    """
    return DataLoader(
        _Carrying(dataset),
        num_workers=workers,
        collate_fn=_Collate(collate),
        worker_init_fn=EndWithParent(then=_hand_over_quietly),
        **options,
    )


def _hand_over_quietly(worker: int) -> None:
    """A rank that ends while it takes a batch from us is no error of ours; the thread that gives it would say so."""
    loud = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if issubclass(kind, ConnectionError) else loud(kind, error, trace)


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader.

    Raises:
        Expected: what the data set raised, here.
        RuntimeError: a worker died; in torch's words, which say of what.
    """
    batches = _Guarded(loader)
    try:
        while (batch := batches.next()) is not _NO_MORE:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    finally:
        batches.batches = None  # an error keeps this frame, which must not keep the workers


_NO_MORE = object()
DEATH_SECONDS = 1.0  # after a torn message; the worker that died of itself closes its pipes at once


class _Guarded:
    """An iterator of a loader whose workers may die."""

    waiting = False
    """Whether this process waits for a batch. Only then may the handler strike, and only once."""

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.batches: Any = None

    def next(self) -> Any:
        _Guarded.waiting = True
        try:
            if self.batches is None:  # torch waits for persistent workers here
                self.batches = iter(self.loader)
                _strike_only_while_waiting()
            return next(self.batches, _NO_MORE)
        except (EOFError, OSError, RuntimeError) as error:
            _Guarded.waiting = False
            self._name_the_dead(error)
            raise
        finally:
            _Guarded.waiting = False

    def _name_the_dead(self, error: Exception) -> None:
        workers = {worker.sentinel: worker for worker in getattr(self.batches, "_workers", [])}
        for ended in wait(list(workers), DEATH_SECONDS):
            worker = workers[ended]
            worker.join()  # what it left open is closed before it has an exit code
            if worker.exitcode < 0:
                ended_by = signal.strsignal(-worker.exitcode)
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: {ended_by}") from error


def _strike_only_while_waiting() -> None:
    """Put a handler around torch's, which it sets when the first workers of a process start."""
    torchs = signal.getsignal(signal.SIGCHLD)
    ours = getattr(torchs, "only_while_waiting", False)
    if ours or not callable(torchs) or threading.current_thread() is not threading.main_thread():
        return

    def handle(number: int, frame: Any) -> None:
        if _Guarded.waiting:
            torchs(number, frame)

    handle.only_while_waiting = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handle)


def load(
    dataset: Dataset, workers: int, collate: Callable[[list[Any]], Any] = default_collate, **options: Any
) -> Iterator[Any]:
    """The batches of a data set; arguments and errors as in `make_loader` and `batches_of`."""
    return batches_of(make_loader(dataset, workers, collate, **options))
