"""One image of a source: its location and its names."""

import json
import re
import sys
from typing import Any, NamedTuple

UNLABELLED = ""
LARGEST_LABEL = 2**20  # bytes of a .cls or .json
# What a program writes for a number, and a class is not called: -1, 3.0, 1e3, nan. Plain digits are a good name.
ODD_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
SHOWN = 60  # letters of a label in a message


class Item(NamedTuple):
    origin: str
    """Its name in the source, harmless; what is recorded and shown."""
    file: str
    """The image itself, or the archive that holds it."""
    location: tuple[int, int] | int | None = None
    """(offset, bytes) in a tar, number of the member of a zip, None for a file of its own."""
    label: str | None = None
    """Name of its class. UNLABELLED: the source says that there is none; None: it says nothing."""
    refused: str = ""
    """Why it must not be read."""
    stamp: int = 0
    """Changes when the file does."""
    archive: str = ""
    """The archive as the user named it; `file` may be an uncompressed copy."""
    folder: str = ""
    """Folders of its name before cleaning, because different ones may look alike afterwards."""

    def title(self) -> str:
        """Name of the image in a message, by which a user can find it."""
        return f"{self.archive}: {self.origin}" if self.archive else self.file


class OddLabel(Exception):
    """Error that says why something is not the name of a class; the end of a sentence."""


def name_parts(name: str) -> list[str]:
    """Split a path from outside, by either separator, into folders and base name; drop what leads elsewhere."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def folder_of(name: str) -> str:
    """Folders of a path from outside, not cleaned. One object for each, since many images lie in one."""
    return sys.intern("/".join(name_parts(name)[:-1]))


def hidden_part(name: str) -> str | None:
    """Cut a path after its first hidden component, which begins with a dot; None where nothing is hidden."""
    parts = name_parts(name)
    first = next((index for index, part in enumerate(parts) if part.startswith(".")), None)
    return None if first is None else "/".join(parts[: first + 1])


def clean_name(name: str) -> str:
    """Remove from a name what leads or looks elsewhere: root, `..`, control characters.

    A byte that is not UTF-8 is shown as a URL shows it, `%B9`, so that names in another encoding stay different.
    """
    return "/".join("".join(map(_shown, part)) for part in name_parts(name)) or "?"


def _shown(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python holds such a byte
        return f"%{ord(letter) - 0xDC00:02X}"
    return letter if letter.isprintable() else "?"


def label_name(content: bytes, *, plain: bool) -> str:
    """Read the class that a `.cls` (`plain`: its text alone) or a `.json` names; UNLABELLED where there is none.

    For data sets that are packed or described already: what `strict_label` refuses today may be in them.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = content.decode(errors="replace").strip() if plain else None
    value = _class_of(value)
    named = isinstance(value, str | int) and not isinstance(value, bool)
    return clean_name(str(value)) if named else UNLABELLED


def packed_number(content: bytes) -> Any:
    """Read the number that `pack` wrote beside the name of the class; None where another program wrote the JSON."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value.get("label") if isinstance(value, dict) and "origin" in value else None


def strict_label(content: bytes, *, plain: bool) -> str:
    """Read a class as `label_name` does, before cleaning, for data that is about to be packed or described.

    Raises:
        OddLabel: it names something that is not a class, or cannot be read.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        if not plain:
            raise OddLabel("its .json is damaged") from None
        try:
            value = content.decode().strip()
        except UnicodeDecodeError:
            raise OddLabel("its .cls is not UTF-8") from None
    value = _class_of(value)
    # Lists of captions, boxes and the like beside an image name no class of it, and are counted by who asks.
    return UNLABELLED if isinstance(value, list | dict) and not plain else check_label(value)


def check_label(value: Any) -> str:
    """Check the name of a class from a list or a file beside an image; UNLABELLED for none (None, empty text).

    An integer is a name, that of its digits.

    Raises:
        OddLabel: a number that is no integer from 0 on, as a number or as text, a truth value, several things.
    """
    if value is None:
        return UNLABELLED
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        text = str(value)
        if re.fullmatch("[0-9]*", text) or not ODD_NUMBER.fullmatch(text.strip()):
            return text
    shown = str(value) if len(str(value)) <= SHOWN else f"{str(value)[:SHOWN]}..."
    raise OddLabel(f"its class is {shown}; name it by a whole number from 0 on or by a word, or leave it empty")


def _class_of(value: Any) -> Any:
    """What a mapping says under `class`, else under `label`; anything else as it is."""
    if not isinstance(value, dict):
        return value
    named = value.get("class")
    return value.get("label") if named is None else named
