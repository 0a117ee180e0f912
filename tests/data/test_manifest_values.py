"""Every field of a manifest x values that it cannot have: whoever opens the data set names the field, in one line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from data.older import of_format_1
from PIL import Image
from support.session import once

from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.errors import BadInput

NUMBERS = (-1, 1.5, float("nan"), float("inf"), 10**400, 2**63, "3", True, None, [], {})
TEXTS = (3, None, True, [], {}, "a\0b")
MISSING = object()
FIELDS: dict[tuple[str | int, ...], tuple] = {
    ("seed",): (-1, 1.5, float("nan"), 2**63, "3", True, [], MISSING),
    ("skipped",): NUMBERS,
    ("source",): (3, None, "x", []),
    ("options",): (3, None, "x", []),
    ("versions",): (3, None, "x", []),
    ("samples",): (1, 1.5, float("nan"), "20", [], {}),
    ("bytes",): (1, 1.5, float("nan"), "20", [], {}),
    ("format",): (0, 3, -1, "2", 2.0, True, float("nan"), None, [], {}),
    ("classes",): (3, "x", {}, [3], [[]], None),
    ("classes", 0, "name"): (*TEXTS, "class_1", MISSING),
    ("classes", 0, "label"): (*NUMBERS, MISSING),
    ("classes", 0, "samples"): (*NUMBERS, 2**31 - 1, MISSING),
    ("shards",): (3, None, "x", {}, [3], [[]], [], MISSING),
    ("shards", 0, "name"): (*TEXTS, "", ".", "..", "/etc/passwd", "../x.tar", "x" * 300, "shard-000001.tar", MISSING),
    ("shards", 0, "samples"): (*NUMBERS, 0, 10**9, MISSING),
    ("shards", 0, "bytes"): (*NUMBERS, 0, 10**12, MISSING),
    ("shards", 0, "sha256"): (3, None, True, [], {}, MISSING),
    ("shards", 0, "index_sha256"): (3, None, True, [], {}),
}


def _packed(folder: Path) -> None:
    for number in range(6):
        path = folder / "images" / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (40 * number, 0, 0)).save(path)
    pack(folder / "images", folder / "shards", shard_samples=3)


@pytest.fixture
def packed(tmp_path) -> Path:
    return shutil.copytree(once("small", _packed) / "shards", tmp_path / "shards")


def put(content: Any, location: tuple[str | int, ...], value: Any) -> None:
    for key in location[:-1]:
        content = content[key]
    if value is MISSING:
        del content[location[-1]]
    else:
        content[location[-1]] = value


def found_by_verify(folder: Path) -> bool:
    try:
        return bool(verify(folder))
    except BadInput:
        return True


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("location", FIELDS, ids=lambda location: ".".join(map(str, location)))
def test_a_value_that_cannot_be_is_named_when_the_data_set_is_opened(location, hashed, packed):
    path = packed / "manifest.json"
    if not hashed:
        with of_format_1(packed):
            pass
    whole = path.read_text()
    for value in FIELDS[location]:
        content = json.loads(whole)
        put(content, location, value)
        path.write_text(json.dumps(content))
        with pytest.raises(BadInput) as refused:
            ShardReader(packed)
        said = str(refused.value)
        assert "\n" not in said
        assert len(said) < 600
        assert re.search(rf"manifest\.json|shard |{re.escape(str(packed))}", said), said
        assert found_by_verify(packed)
