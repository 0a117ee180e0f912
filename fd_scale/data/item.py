"""One image of a source: where it lies and what it is called."""

import json
from typing import NamedTuple

UNLABELLED = ""
LARGEST_LABEL = 2**20  # bytes of a .cls or .json


class Item(NamedTuple):
    origin: str
    """Its name in the source, harmless; what is recorded and shown."""
    file: str
    """The image itself, or the archive that holds it."""
    place: tuple[int, int] | int | None = None
    """(offset, bytes) in a tar, number of the member of a zip, None for a file of its own."""
    label: str | None = None
    """Name of its class. UNLABELLED: the source says that there is none; None: it says nothing."""
    refused: str = ""
    """Why it must not be read."""
    stamp: int = 0
    """Changes when the file does."""
    archive: str = ""
    """The archive as the user named it; `file` may be an uncompressed copy."""

    def title(self) -> str:
        """For a message: what the user can find."""
        return f"{self.archive}: {self.origin}" if self.archive else self.file


def clean_name(name: str) -> str:
    """A name from outside without anything that leads or looks elsewhere: no root, no `..`, no control characters."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name.replace("\\", "/"))
    return "/".join(part for part in printable.split("/") if part not in ("", ".", "..")) or "?"


def label_name(content: bytes, *, plain: bool) -> str:
    """The class that a `.cls` (`plain`: its text alone) or a `.json` names; UNLABELLED where there is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = content.decode(errors="replace").strip() if plain else None
    if isinstance(value, dict):
        value = value.get("class", value.get("label"))
    named = isinstance(value, str | int) and not isinstance(value, bool)
    return clean_name(str(value)) if named else UNLABELLED
