"""Writer of one shard: tar, index and a record from images; the same bytes wherever and however often it is written."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fd_scale.data.image_bytes import BadImage, check_decodes, shrink
from fd_scale.data.item import Item
from fd_scale.data.packing.partial import read_record
from fd_scale.data.packing.sources import read_item
from fd_scale.data.shards import Member, Shard, write_index
from fd_scale.data.tars import tar_members
from fd_scale.errors import BadInput
from fd_scale.files import sha256_of, write_whole

# Endings that are kept; other readers know few of them, and `.jfif` or `.jpe` are JPEG by another name.
KEPT = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
# For content under a name that tells nothing.
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True)
class ShardTask:
    number: int
    first: int
    """Place of its first image, which gives the names of the members."""
    items: list[Item]
    labels: dict[str, int]


@dataclass
class FinishedShard:
    """Record of a shard that is written."""

    shard: Shard
    classes: dict[str, int] = field(default_factory=dict)
    """Samples of each class."""
    skipped: list[list[str]] = field(default_factory=list)
    """[origin, reason]"""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """As `LeftOut` counts."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, content: Any) -> "FinishedShard":
        return cls(Shard(**content["shard"]), content["classes"], content["skipped"], content.get("left_out", {}))


def write_shard(
    folder: Path, done: Path, short_side: int | None, skip_bad: bool, task: ShardTask
) -> Iterator[FinishedShard | None]:
    """Write one shard, unless it is there already. Yields None for each image, then the finished shard.

    Raises:
        BadInput: an image that does not decode, without `skip_bad`.
    """
    path = folder / f"shard-{task.number:06d}.tar"
    record = done / f"{path.stem}.json"
    finished = _standing(path, record)
    if finished is None or (finished.skipped and not skip_bad):
        finished = FinishedShard(Shard(path.name, 0, 0, ""))
        with open(path, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for number, item in enumerate(task.items, start=task.first):
                    _add(tar, number, item, task.labels, finished, short_side, skip_bad)
                    yield None
            file.flush()
            os.fsync(file.fileno())
        samples = len(task.items) - len(finished.skipped)
        written = write_index(path.with_suffix(".idx"), _entries(path))
        finished.shard = Shard(path.name, samples, path.stat().st_size, sha256_of(path), written)
        write_whole(record, finished.to_json())
    else:
        written = write_index(path.with_suffix(".idx"), _entries(path))
        finished.shard = replace(finished.shard, index_sha256=written)
        for _ in task.items:
            yield None
    yield finished


def _standing(path: Path, record: Path) -> FinishedShard | None:
    """The record of a shard that an earlier command finished, if its bytes are still those."""
    try:
        finished = FinishedShard.from_json(read_record(record))
        return finished if sha256_of(path) == finished.shard.sha256 else None
    except (OSError, KeyError, TypeError):
        return None


def _entries(path: Path) -> list[list[Member]]:
    """The samples of a shard that was written here, each of two members."""
    with open(path, "rb") as file:
        found = [Member(m.name.partition(".")[2], m.offset_data, m.size, m.name) for m in tar_members(file)]
    return [list(pair) for pair in zip(found[::2], found[1::2], strict=True)]


def _add(
    tar: tarfile.TarFile,
    number: int,
    item: Item,
    labels: dict[str, int],
    finished: FinishedShard,
    short_side: int | None,
    skip_bad: bool,
) -> None:
    try:
        content, extension = _image(item, short_side)
    except BadImage as error:
        if not skip_bad:
            raise BadInput(
                f"{item.title()} {error.verb}: {error}; repair or remove it, or leave such images out with --skip-bad"
            ) from None
        finished.skipped.append([item.origin, str(error)])
        return
    facts: dict[str, Any] = {"origin": item.origin}
    if item.label is not None:
        facts |= {"class": item.label, "label": labels[item.label]}
        finished.classes[item.label] = finished.classes.get(item.label, 0) + 1
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    _add_member(tar, f"{number:09d}.{extension}", content)
    _add_member(tar, f"{number:09d}.json", json.dumps(facts).encode())


def _image(item: Item, short_side: int | None) -> tuple[bytes, str]:
    """(bytes, extension) to store: the original ones, unless the image is to be shrunk and larger."""
    content = read_item(item)
    smaller = shrink(content, short_side) if short_side else None
    if smaller:
        return smaller
    image_format = check_decodes(content)
    extension = item.origin.rpartition(".")[2].lower()
    return content, extension if extension in KEPT else EXTENSIONS.get(image_format, "jpg")


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Time and owner are fixed: the same images give the same bytes.
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o444, 0
    member.uname = member.gname = "fd_scale"
    tar.addfile(member, io.BytesIO(content))
