"""Numbers of the classes of a data set, and what must not be taken for a class. One rule for every kind of source.

Names that are all digits come first, by value; all others follow by code point. The numbers count from 0 in that order
and are stored in the manifest, so a data set keeps those that it was packed with.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from fd_scale.data.item import clean_name
from fd_scale.errors import BadInput

SPLITS = ("train", "val", "valid", "validation", "test")
SHOWN = 3  # names in a summary


def class_numbers(image_of: Mapping[str, object]) -> dict[str, int]:
    """Number every class, in the order of the numbers.

    Args:
        image_of: names, and one image of each, as users know it.

    Raises:
        BadInput: two names of one value, such as 1 and 01, or that differ in the bytes of an accent only.
    """
    spelled: dict[str, str] = {}
    for name in image_of:
        other = spelled.setdefault(one_spelling(name), name)
        if other != name:
            raise BadInput(
                f"the classes {other!a} (of {image_of[other]}) and {name!a} (of {image_of[name]}) are one name in "
                f"two spellings of Unicode; rename one"
            )
    ordered = sorted(image_of, key=_order)
    for one, other in pairwise(ordered):
        if _order(one)[:3] == _order(other)[:3] and _is_number(one):
            raise BadInput(
                f"the classes {one} (of {image_of[one]}) and {other} (of {image_of[other]}) have names of one value; "
                f"write both alike, or rename one"
            )
    return {name: number for number, name in enumerate(ordered)}


def one_spelling(name: str) -> str:
    """Spell a name as most systems write it; macOS takes letters with accents apart."""
    return unicodedata.normalize("NFC", name)


def class_names(raw: Iterable[str], source: Path, clean: Callable[[str], str] = clean_name) -> dict[str, str]:
    """Map every name to what `clean` makes of it.

    Raises:
        BadInput: two different classes would get one name.
    """
    raw_by_clean: dict[str, str] = {}
    for name in sorted(raw):
        other = raw_by_clean.setdefault(clean(name), name)
        if other != name:
            raise BadInput(
                f"{source}: {other!a} and {name!a} would both become the class {clean(name)}; rename one of them"
            )
    return {name: clean for clean, name in raw_by_clean.items()}


def top_folders(folders: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split off what all folders have in common, and name the next folder of each; empty for the common one itself."""
    every = set(folders)
    common = os.path.commonpath(every) if every else ""
    return common, {folder: folder[len(common) :].lstrip("/").split("/")[0] for folder in every}


def are_splits(names: Iterable[str]) -> bool:
    """Whether folders are the parts of a data set and not its classes; images beside the folders do not count."""
    folded = {name.casefold() for name in names if name}
    return bool(folded) and folded <= set(SPLITS)


def name_some(names: Iterable[str]) -> str:
    """List the first few names, for people."""
    every = list(names)
    return ", ".join([*every[:SHOWN], *(["..."] if len(every) > SHOWN else [])])


def _order(name: str) -> tuple[int, int, str, str]:
    if not _is_number(name):
        return 1, 0, name, name
    # By length and then by letter is by value, and knows no limit of digits.
    value = name.lstrip("0")
    return 0, len(value), value, name


def _is_number(name: str) -> bool:
    return re.fullmatch("[0-9]+", name) is not None
