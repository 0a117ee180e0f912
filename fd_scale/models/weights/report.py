"""What became of every tensor of a file and of every parameter of the model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fd_scale.models.weights.formats import UNKNOWN


@dataclass(frozen=True)
class LoadReport:
    """Every parameter of the model is in one of `matched`, `resized` (name -> how), `neutral` (absent in the file and
    filled with the value at which it does nothing) and `missing`. `ignored` has the tensors of the file that went
    nowhere (name -> why).

    format: the published format that the names are of.
    notes: what was done besides, in words.
    share: of the model's numbers, how many come from the file.
    """

    format: str
    matched: tuple[str, ...]
    resized: dict[str, str]
    neutral: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: dict[str, str]
    notes: tuple[str, ...]
    share: float

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def unknown(self) -> tuple[str, ...]:
        """Tensors of the file that nobody here knows."""
        return tuple(name for name, why in self.ignored.items() if why == UNKNOWN)

    def __str__(self) -> str:
        parts = [
            f"{self.format}: {len(self.matched)} tensors matched ({self.share:.1%} of the model's numbers)",
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
    """'none', or all of them; names that differ in their numbers alone stand together, with how many they are."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    if not groups:
        return "none"
    count = sum(map(len, groups.values()))
    listed = [members[0] if len(members) == 1 else f"{len(members)} {pattern}" for pattern, members in groups.items()]
    return f"{count} ({', '.join(listed)})"
