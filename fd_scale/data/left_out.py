"""Count, by kind, of what a source holds and is not taken, so that nothing is left out without a word."""

import os
from collections import Counter
from collections.abc import Iterator

from fd_scale.data.item import clean_name, hidden_part
from fd_scale.data.shards import IMAGE_EXTENSIONS

HIDDEN = "hidden files and folders"
FORMATS = "images of formats that are not read"
OTHER = "other files"
BESIDE = "other members of samples"
NOT_PLAIN = "links, devices and sparse files"
UNNAMED = "members whose names webdataset passes over"
LOOPS = "links to folders that they lie in"
ELSEWHERE = "archives of other kinds or in folders below"
NO_CLASS = "descriptions (.cls, .json) that name no class"

OTHER_IMAGES = (
    *(
        "gif",
        "apng",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "avif",
        "heic",
        "heif",
        "jp2",
        "j2k",
        "jpx",
        "jxl",
        "jxr",
        "exr",
        "hdr",
    ),
    *("tga", "psd", "svg", "ico", "dds", "eps", "dcm", "dng", "cr2", "cr3", "nef", "arw", "orf", "raf", "rw2"),
)
ENDINGS = 4  # shown of each kind
SHOWN = 12  # letters of an ending


class LeftOut:
    """Counts by kind and ending. `to_json` and `add_json` carry them from one process to another."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._hidden: set[str] = set()

    def add(self, kind: str, ending: str = "", count: int = 1) -> None:
        shown = clean_name(ending[:SHOWN]) if ending else ""
        if count:
            self._counts.setdefault(kind, Counter())[shown] += count

    def add_hidden(self, name: str, prefix: str = "") -> bool:
        """Tell whether a path from outside is hidden, and count it.

        What lies in one hidden folder counts once, as that folder does.

        Args:
            prefix: what tells this archive from others.
        """
        hidden = hidden_part(name)
        if hidden is None:
            return False
        if prefix + hidden not in self._hidden:
            self._hidden.add(prefix + hidden)
            self.add(HIDDEN)
        return True

    def add_file(self, name: str) -> None:
        """Count a file that is no image of a known kind."""
        ending = os.path.splitext(name.replace("\\", "/"))[1].lower()
        self.add(FORMATS if ending.removeprefix(".") in OTHER_IMAGES else OTHER, ending or "no ending")

    def to_json(self) -> dict[str, dict[str, int]]:
        return {kind: dict(endings) for kind, endings in self._counts.items()}

    def add_json(self, counts: dict[str, dict[str, int]]) -> None:
        for kind, endings in counts.items():
            for ending, count in endings.items():
                self.add(kind, ending, count)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return "; ".join(self._phrases())

    def _phrases(self) -> Iterator[str]:
        for kind, endings in sorted(self._counts.items()):
            named = [f"{ending} {count}" for ending, count in sorted(endings.items(), key=_most_first) if ending]
            shown = ", ".join(named[:ENDINGS] + ["..."] * (len(named) > ENDINGS))
            yield f"{endings.total()} {kind}" + (f" ({shown})" if shown else "")


def is_image(name: str) -> bool:
    """Whether a file's ending says that it is an image of a kind that is read."""
    return name.lower().endswith(tuple(f".{extension}" for extension in IMAGE_EXTENSIONS))


def _most_first(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]
