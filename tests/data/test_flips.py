"""One byte of a packed data set is another one: `verify` finds it, or every sample is as it was.

Reading finds it too, except in the bytes of an image, which nobody hashes while training: there a flip may decode to
other pixels. No flip changes a label without a word.
"""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.parts import sweep
from support.session import once

from fd_scale.data.decode import BadSample, decode
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.errors import BadInput

FILES = ("shard-000001.tar", "shard-000001.idx", "manifest.json")
Seen = list[tuple[bytes | None, int]]


def _write(folder: Path) -> None:
    """12 images of 3 classes in 3 shards."""
    random = np.random.default_rng(0)
    for number in range(12):
        path = folder / "images" / f"class_{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    pack(folder / "images", folder / "shards", shard_samples=4)


def read_all(folder: Path) -> Seen:
    """(pixels, label) of every sample; None for one that does not decode, which training counts and replaces."""
    reader = ShardReader(folder)
    seen: Seen = []
    for number in range(len(reader)):
        try:
            pixels = decode(reader[number].content).tobytes()
        except BadSample:
            pixels = None
        seen.append((pixels, reader.label(number)))
    return seen


def flips(folder: Path, name: str, count: int) -> tuple[Counter[str], Counter[str]]:
    """What `verify` and what reading make of that many flips, each alone."""
    whole, path = read_all(folder), folder / name
    content, random = path.read_bytes(), np.random.default_rng(0)
    verified, read = Counter[str](), Counter[str]()
    for _ in range(count):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= random.integers(1, 256)
        path.write_bytes(damaged)
        outcome = _read(folder, whole)
        read[outcome] += 1
        verified[_verified(folder) or ("harmless" if outcome == "harmless" else "silent")] += 1
    path.write_bytes(content)
    return verified, read


def _read(folder: Path, whole: Seen) -> str:
    try:
        seen = read_all(folder)
    except BadInput:
        return "refused"
    if any(label != before for (_, label), (_, before) in zip(seen, whole, strict=True)):
        return "another label"
    if any(pixels is None for pixels, _ in seen):
        return "bad sample"
    return "harmless" if seen == whole else "other pixels"


def _verified(folder: Path) -> str:
    try:
        return "detected" if verify(folder) else ""
    except BadInput:
        return "detected"


@pytest.mark.parametrize(
    ("name", "count"), sweep([(name, n) for name in FILES for n in (12, 200)], [(name, 12) for name in FILES])
)
def test_no_flipped_byte_passes_verify_or_changes_what_is_read_without_a_word(name, count, tmp_path):
    folder = shutil.copytree(once("flipped", _write) / "shards", tmp_path / "shards")
    verified, read = flips(folder, name, count)
    assert verified["silent"] == 0, verified
    assert read["another label"] == 0, read
    if not name.endswith(".tar"):
        assert read["other pixels"] == read["bad sample"] == 0, read
        assert read["refused"] > 0.8 * count, read
