"""The logs of all ranks as one, by time.

Each rank writes logs/rank_XXXXX.log, whose lines begin with the time; a line that does not belongs to the one before it
(a traceback). The files are read side by side and never whole, so their size does not matter.
"""

import heapq
import itertools
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from fd_scale.errors import BadInput

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
NAME = re.compile(r"rank_(\d+)\.log")
LINE_BYTES = 200
"""Of a line of a log, roughly; to find the last ones without reading the others."""

Entry = tuple[str, int, int, str]
"""Time, rank, number within its file, text."""


def log_files(folder: Path) -> dict[int, Path]:
    """Rank -> its log."""
    found = {int(name[1]): path for path in (folder / "logs").glob("rank_*.log") if (name := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def merged(folder: Path, last: int | None = None) -> Iterator[str]:
    """Entries of all ranks in the order of their times, each with its rank in front.

    Args:
        last: only so many of the last.

    Raises:
        BadInput: there are no logs, or one cannot be read.
    """
    files = log_files(folder)
    if not files:
        raise BadInput(f"{folder} has no logs/rank_*.log: the run has not begun, or the folder is no run's")
    _allow_open(len(files))
    width = len(str(max(files)))
    streams = [_entries(rank, path, last) for rank, path in files.items()]
    entries: Iterator[Entry] = heapq.merge(*streams)
    if last is not None:
        newest = heapq.nlargest(last, entries)
        entries = iter(sorted(newest))
    for _, rank, _, text in entries:
        first, *more = text.splitlines()
        stamp, words = (first[:23], first[24:]) if TIME.match(first) else (" " * 23, first)
        yield "\n".join([f"{stamp} rank {rank:{width}d} {words}", *(f"{' ' * 24}{line}" for line in more)])


def last_bytes(path: Path, most: int) -> bytes:
    """The end of a file, from the beginning of a line on. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        content = file.read(most)
    return content if size <= most else content.partition(b"\n")[2]


def _allow_open(files: int) -> None:
    """Some systems let a process open 1024 files, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files + 64:
        wanted = files + 64 if hard == resource.RLIM_INFINITY else min(hard, files + 64)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _entries(rank: int, path: Path, last: int | None) -> Iterator[Entry]:
    try:
        lines = _last_lines(path, last) if last is not None else _lines(path)
        yield from _grouped(rank, lines)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; make it readable, or move it away") from None


def _lines(path: Path) -> Iterator[str]:
    with path.open(errors="replace") as file:
        yield from file


def _last_lines(path: Path, last: int) -> Iterator[str]:
    """Enough of the last lines for so many entries, and perhaps more."""
    most, size = LINE_BYTES * (last + 1), path.stat().st_size
    while True:
        lines = last_bytes(path, most).decode(errors="replace").splitlines(keepends=True)
        if most >= size or sum(TIME.match(line) is not None for line in lines) >= last:
            whole = most >= size
            return iter(lines) if whole else itertools.dropwhile(lambda line: not TIME.match(line), lines)
        most *= 4


def _grouped(rank: int, lines: Iterator[str]) -> Iterator[Entry]:
    """Times never go back within a file for the merge, where a clock was set back."""
    time, number, text = "", 0, ""
    for line in lines:
        if TIME.match(line):
            if text:
                yield time, rank, number, text
                number += 1
            time, text = max(time, line[:23]), line
        else:
            text += line
    if text:
        yield time, rank, number, text
