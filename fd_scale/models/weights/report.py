"""Report of what became of every tensor of a file and of every parameter of the model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fd_scale.models.weights.formats import UNKNOWN


@dataclass(frozen=True)
class LoadReport:
    """Report on weights that were loaded.

    Every parameter of the model is in one of `matched`, `resized` (name -> how), `neutral` (absent in the file and
    filled with the value at which it does nothing) and `missing`. `ignored` has the tensors of the file that went
    nowhere (name -> why).

    format: the published format that the names are of.
    notes: what was done besides, in words.
    share: of the model's numbers, how many come from the file.
    origin: the file, and where in it the tensors were; "" where only tensors were given.
    """

    format: str
    matched: tuple[str, ...]
    resized: dict[str, str]
    neutral: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: dict[str, str]
    notes: tuple[str, ...]
    share: float
    origin: str = ""

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def unknown(self) -> tuple[str, ...]:
        """Tensors of the file that nobody here knows."""
        return tuple(name for name, why in self.ignored.items() if why == UNKNOWN)

    def __str__(self) -> str:
        kind = f"{self.origin}: {self.format}" if self.origin else self.format
        parts = [
            f"{kind}: {len(self.matched)} tensors matched ({self.share:.1%} of the model's numbers)",
            f"resized: {shown(f'{name} {how}' for name, how in self.resized.items())}",
            f"missing: {shown(self.missing)}",
        ]
        if self.neutral:
            parts.append(f"absent and filled with the value that changes nothing: {shown(self.neutral)}")
        reasons: dict[str, list[str]] = {}
        for name, why in self.ignored.items():
            reasons.setdefault(why, []).append(name)
        unknown = reasons.pop(UNKNOWN, [])
        ignored = ", ".join(f"{why}: {shown(names)}" for why, names in reasons.items())
        parts.append(f"ignored: {ignored or 'none'}")
        parts.append(f"ignored as unknown: {shown(unknown)}")
        return "; ".join([*parts, *self.notes])


def shown(names: Iterable[str]) -> str:
    """List all names, or write 'none'.

    Names that differ in their numbers alone stand together, with how many they are.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    if not groups:
        return "none"
    listed = [members[0] if len(members) == 1 else f"{len(members)} {_span(members)}" for members in groups.values()]
    return f"{sum(map(len, groups.values()))} ({', '.join(listed)})"


def _span(names: list[str]) -> str:
    """One name with a range in place of each number in which they differ: layers.2.blocks.0-17.norm1.weight."""
    columns = zip(*(map(int, re.findall(r"\d+", name)) for name in names), strict=True)
    ranges = iter(
        [f"{min(numbers)}-{max(numbers)}" if len(set(numbers)) > 1 else str(numbers[0]) for numbers in columns]
    )
    return re.sub(r"\d+", lambda _: next(ranges), names[0])
