"""Progress of a long piece of work, shown or not. A leaf: whoever iterates takes a `Progress` from its caller."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wrapper of an iteration over `total` units of work that shows it under a label."""

    def __call__(self, items: Iterable[T], total: int, label: str) -> Iterable[T]: ...


def silent(items: Iterable[T], total: int, label: str) -> Iterable[T]:
    """Show nothing."""
    return items


def bar(unit: str) -> Progress:
    """Show a progress bar with rate and time left, on a terminal; elsewhere nothing."""

    def progress(items: Iterable[T], total: int, label: str) -> Iterable[T]:
        from tqdm import tqdm

        return tqdm(items, total=total, desc=label, unit=unit, disable=None)

    return progress
