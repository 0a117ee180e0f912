"""Lists of images: CSV, or Parquet where pyarrow is installed (`pip install fd-scale[parquet]`).

Columns `path` (or `image`, `file`) and, where there is one, `label` (or `class`), in capitals or not. Paths are
relative to the list's folder. A label is a word or a whole number from 0 on, and is the name of a class.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fd_scale.data.item import Item, OddLabel, check_label, clean_name
from fd_scale.data.numbering import name_some
from fd_scale.data.packing.archives import file_stamp
from fd_scale.errors import BadInput

LISTS = (".csv", ".parquet")
PATH_COLUMNS = ("path", "image", "file")
LABEL_COLUMNS = ("label", "class")
FORBIDDEN = ("pipe:", "|")
LONGEST_ROW = 2**20  # letters
ROWS = 10_000  # of a Parquet list held at a time


def read_list(path: Path, notes: list[str]) -> Iterator[Item]:
    """Read the images of a list, in its order.

    Args:
        notes: gets a line for what is left out.

    Raises:
        BadInput: it cannot be read, has no column of paths, a row without a path of a file, or one whose label is no
            name of a class.
    """
    rows = (_parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows)(path, notes)
    for number, (name, label) in enumerate(rows, start=1):
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise BadInput(f"{path}: row {number} holds {name!r:.80} instead of a path; correct or remove it")
        if name.lower().startswith(FORBIDDEN) or "://" in name:
            raise BadInput(f"{path}: row {number} is a URL, {name!r:.80}; nothing is fetched or run: give local files")
        try:
            named = check_label(label.strip() if isinstance(label, str) else label)
        except OddLabel as error:
            raise BadInput(f"{path}: row {number}, {clean_name(name)}: {error}") from None
        file = os.path.join(path.parent, name)
        yield Item(clean_name(name), file, label=named, stamp=file_stamp(file))


def _csv_rows(path: Path, notes: list[str]) -> Iterator[tuple[Any, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_lines(file, path))
            header = next(reader, [])
            names, labels = _columns(path, header, notes)
            full = (row for row in reader if row)  # an empty line is no row
            for number, row in enumerate(full, start=1):
                if len(row) != len(header):
                    raise BadInput(
                        f"{path}: row {number} has {len(row)} fields and the header {len(header)}; put a field that "
                        f"holds a comma in quotes"
                    )
                yield row[names], None if labels is None else row[labels]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a CSV list: {error}; write it as UTF-8 with commas") from None


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a text, none longer than is sane."""
    while line := file.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise BadInput(f"{path} has a line of more than {LONGEST_ROW} letters and is no list; give one row a line")
        yield line


def _parquet_rows(path: Path, notes: list[str]) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise BadInput(f"reading {path} needs pyarrow; pip install 'fd-scale[parquet]', or give a CSV list") from None
    try:
        with parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            names, labels = _columns(path, header, notes)
            chosen = [header[names]] if labels is None else [header[names], header[labels]]
            for batch in file.iter_batches(ROWS, columns=chosen):
                columns = [batch.column(name).to_pylist() for name in chosen]
                yield from zip(columns[0], columns[-1] if len(chosen) > 1 else [None] * len(batch), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet list: {error}; write it again") from None


def _columns(path: Path, header: list[str], notes: list[str]) -> tuple[int, int | None]:
    """Numbers of the columns of paths and of labels. Capitals and blanks around a name do not count."""
    plain = [name.strip().casefold() for name in header]
    names, labels = _column(path, plain, PATH_COLUMNS), _column(path, plain, LABEL_COLUMNS)
    if names is None:
        raise BadInput(
            f"{path} has no column {' or '.join(PATH_COLUMNS)} but {', '.join(header) or 'none'}; name one so"
        )
    unused = [clean_name(name) for column, name in enumerate(header) if column not in (names, labels)]
    if unused:
        notes.append(f"{path.name}: left out {len(unused)} columns: {name_some(unused)}")
    return names, labels


def _column(path: Path, header: list[str], wanted: tuple[str, ...]) -> int | None:
    for name in wanted:
        if header.count(name) > 1:
            raise BadInput(f"{path} has {header.count(name)} columns called {name}; name the one that counts so")
        if name in header:
            return header.index(name)
    return None
