"""Data sets as earlier versions wrote them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def of_format_1(folder: Path) -> Iterator[Any]:
    """The manifest of a data set without the hashes of format 2; what the caller changes in it is written."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["format"] = 1
    content.pop("sha256", None)
    for shard in content["shards"]:
        shard.pop("index_sha256", None)
    yield content
    path.write_text(json.dumps(content, indent=1))
