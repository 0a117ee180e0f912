"""Lists of images: CSV, or Parquet where pyarrow is installed (`pip install fd-scale[parquet]`).

Columns `path` (or `image`, `file`) and, where there is one, `label` (or `class`). Paths are relative to the list's
folder.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fd_scale.data.archives import file_stamp
from fd_scale.data.item import UNLABELLED, Item, clean_name
from fd_scale.errors import BadInput

LISTS = (".csv", ".parquet")
PATH_COLUMNS = ("path", "image", "file")
LABEL_COLUMNS = ("label", "class")
FORBIDDEN = ("pipe:", "|")
ROWS = 10_000  # of a Parquet list held at a time


def read_list(path: Path) -> Iterator[Item]:
    """The images of a list, in its order.

    Raises:
        BadInput: it cannot be read, has no column of paths, or a row without a path of a file.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    for number, (name, label) in enumerate(rows, start=1):
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise BadInput(f"{path}: row {number} holds {name!r:.80} instead of a path; correct or remove it")
        if name.lower().startswith(FORBIDDEN) or "://" in name:
            raise BadInput(f"{path}: row {number} is a URL, {name!r:.80}; nothing is fetched or run: give local files")
        file = os.path.join(path.parent, name)
        yield Item(
            clean_name(name), file, label=UNLABELLED if label is None else str(label).strip(), stamp=file_stamp(file)
        )


def _csv_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, labels = _columns(path, reader.fieldnames or ())
            for row in reader:
                yield row[names], row[labels] if labels else None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a CSV list: {error}; write it as UTF-8 with commas") from None


def _parquet_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise BadInput(f"reading {path} needs pyarrow; pip install 'fd-scale[parquet]', or give a CSV list") from None
    try:
        with parquet.ParquetFile(path) as file:
            names, labels = _columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(ROWS, columns=[names, labels] if labels else [names]):
                columns = batch.to_pydict()
                yield from zip(columns[names], columns[labels] if labels else [None] * len(batch), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet list: {error}; write it again") from None


def _columns(path: Path, found: Iterable[str]) -> tuple[str, str | None]:
    columns = list(found)
    names = next((name for name in PATH_COLUMNS if name in columns), None)
    if names is None:
        raise BadInput(
            f"{path} has no column {' or '.join(PATH_COLUMNS)} but {', '.join(columns) or 'none'}; name one so"
        )
    return names, next((name for name in LABEL_COLUMNS if name in columns), None)
