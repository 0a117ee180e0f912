"""Reading a packed data set again, all of it, and naming what is damaged.

Tar and index against the manifest (SHA-256), index against tar, every label against the table of classes, every image
against the hash beside it, and decoded. Shards of other programs carry no hash of each image: there a flipped bit that
still decodes is named by its shard alone. So are labels that were exchanged between samples, of whatever program.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial as bind
from pathlib import Path
from typing import NamedTuple

from fd_scale.data.image_bytes import LARGEST, BadImage, check_decodes
from fd_scale.data.item import LARGEST_LABEL
from fd_scale.data.packing.pack import check_positive, keep_results
from fd_scale.data.packing.workers import in_workers
from fd_scale.data.reader import KnownClasses, NoClass
from fd_scale.data.regular import open_regular
from fd_scale.data.shards import IMAGE_EXTENSIONS, Manifest, Member, Shard, index_name, read_index, read_manifest
from fd_scale.data.tars import (
    DESCRIBING,
    TAR_ERRORS,
    header_of,
    hidden_entries,
    index_entries,
    is_header_of,
    webdataset_functions,
)
from fd_scale.errors import BadInput
from fd_scale.files import sha256_of
from fd_scale.progress import Progress, silent


class Damage(NamedTuple):
    where: str
    """shard/member, or the shard, its index or the manifest alone."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class _Found:
    """What one shard turned out to be."""

    shard: str
    damages: list[Damage] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    """Samples by the number of their class."""

    def add(self, where: str, reason: str) -> None:
        self.damages.append(Damage(where, reason))


def verify(folder: Path, *, workers: int = 1, progress: Progress = silent) -> list[Damage]:
    """Read everything again and list what is damaged.

    It says on stderr what an older format keeps no hash of.

    Returns:
        What is damaged, in the order of the shards; nothing where all is whole.

    Raises:
        BadInput: no manifest, or a damaged one.
        Retry: a worker was killed.
    """
    check_positive(workers=workers)
    manifest = read_manifest(folder, check_sizes=False)
    if manifest.format == 1:
        print(
            f"{folder} was written by an earlier version: its manifest.json holds no hash of itself and of the "
            f"indexes. They are compared with the shards as far as those tell; pack or index again to have all checked",
            file=sys.stderr,
        )
    webdataset_functions()
    found: list[_Found] = []
    task = bind(_verify_shard, folder, manifest)
    events = in_workers(task, manifest.shards, min(workers, len(manifest.shards)))
    for _ in progress(keep_results(events, found), manifest.samples, "verifying"):
        pass
    damages = [damage for entry in sorted(found, key=lambda entry: entry.shard) for damage in entry.damages]
    return [*_in_manifest(manifest), *damages] or _in_table(manifest, found)


def _in_manifest(manifest: Manifest) -> list[Damage]:
    """Damage that a manifest of format 1 may hold and no shard shows."""
    names = [shard.name for shard in manifest.shards]
    if names != sorted(names):
        return [Damage("manifest.json", "its shards are not in the order of their names")]
    return []


def _in_table(manifest: Manifest, found: list[_Found]) -> list[Damage]:
    """Where the shards are whole, classes of which they hold another number of samples than the manifest says."""
    counted = sum((entry.classes for entry in found), Counter[int]())
    stated = Counter[int]()
    for entry in manifest.classes:
        stated[entry.label] += entry.samples
    return [
        Damage("manifest.json", f"gives class number {label} {stated[label]} samples, the shards hold {counted[label]}")
        for label in sorted(stated | counted)
        if stated[label] != counted[label]
    ]


def _verify_shard(folder: Path, manifest: Manifest, shard: Shard) -> Iterator[_Found | None]:
    found = _Found(shard.name)
    try:
        opened = open_regular(folder / shard.name)
    except BadInput as error:
        found.add(shard.name, str(error))
        yield found
        return
    try:
        yield from _verify_opened(folder, opened, manifest, shard, found)
    except OSError as error:
        found.add(shard.name, f"cannot be read: {error.strerror or error}")
    finally:
        os.close(opened)
    yield found


def _verify_opened(folder: Path, file: int, manifest: Manifest, shard: Shard, found: _Found) -> Iterator[None]:
    content = sha256_of(folder / shard.name)
    whole = content == shard.sha256
    other = next((other.name for other in manifest.shards if other.sha256 == content), None)
    if not whole and other:
        found.add(shard.name, f"holds what the manifest calls {other}; exchanged, or one copied over the other")
        return
    classes = KnownClasses(manifest)
    for sample in _samples(folder, manifest, shard, whole, found):
        if _verify_sample(file, shard.name, sample, found) and manifest.classes:
            _verify_label(file, shard.name, sample, classes, found)
        yield None
    if not whole and not found.damages:
        reason = "not the bytes that the manifest says, though every image is whole; a label may be another one"
        found.add(shard.name, reason)
    if not found.damages and shard.index_sha256 not in ("", sha256_of(folder / shard.index)):
        found.add(shard.index, "not the bytes that the manifest says, though it leads to every sample")


def _samples(folder: Path, manifest: Manifest, shard: Shard, whole: bool, found: _Found) -> list[list[Member]]:
    """Where the samples of a shard lie. A tar that is whole says so itself, and shows what the index is worth."""
    path, indexed = folder / shard.name, None
    try:
        indexed = read_index(folder / shard.index)
        content = sha256_of(folder / shard.index)
        other = next((other.index for other in manifest.shards if other.index_sha256 == content), shard.index)
        if other != shard.index and content != shard.index_sha256:
            found.add(shard.index, f"holds what the manifest calls {other}; exchanged, or one copied over the other")
            indexed = None
    except BadInput as error:
        found.add(shard.index, str(error))
    if indexed is not None and len(indexed) != shard.samples:
        found.add(shard.index, f"lists {len(indexed)} samples, the manifest says {shard.samples}")
    if not whole and indexed is not None:
        return indexed
    try:
        there = index_entries(path)
        earlier = hidden_entries(path) if indexed is not None and len(indexed) > len(there) else []
    except TAR_ERRORS as error:
        found.add(path.name, f"the tar cannot be read: {error}")
        return indexed or []
    known = {tuple(sample) for sample in there + earlier}
    for sample in indexed or ():
        if tuple(sample) not in known:
            found.add(f"{path.name}/{_title(sample)}", "the index does not agree with the tar")
    return there if indexed is None else [sample for sample in indexed if tuple(sample) in known]


def _verify_sample(file: int, shard: str, sample: list[Member], found: _Found) -> bool:
    """Whether the image is whole and what lies beside it can be read."""
    where = f"{shard}/{_title(sample)}"
    images = [member for member in sample if member.extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        found.add(where, f"{len(images)} images instead of one")
        return False
    try:
        for member in sample:
            _check_header(file, member)
        expected = _recorded_hash(file, sample)
        content = os.pread(file, images[0].bytes, images[0].offset)
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise BadImage("not the bytes that were packed")
        check_decodes(content)
    except BadImage as error:
        found.add(where, str(error))
        return False
    return True


def _verify_label(file: int, shard: str, sample: list[Member], classes: KnownClasses, found: _Found) -> None:
    described = [m for m in sample if m.extension in DESCRIBING and 0 < m.bytes <= LARGEST_LABEL]
    content = [(os.pread(file, member.bytes, member.offset), member.extension == "cls") for member in described]
    try:
        number = classes.number(content)
        if number is not None:
            found.classes[number] += 1
    except NoClass as why:
        found.add(f"{shard}/{_title(sample)}", str(why))


def _check_header(file: int, member: Member) -> None:
    """Whether the tar has at that offset what the index says."""
    if member.offset + member.bytes > os.fstat(file).st_size:
        raise BadImage(f"{member.name} lies beyond the end of the torn shard")
    if member.bytes > LARGEST and member.extension in IMAGE_EXTENSIONS:
        raise BadImage(f"more than {LARGEST} bytes")
    header = header_of(file, member)
    if header is None:
        raise BadImage(f"the tar header of {member.name} is damaged")
    if not is_header_of(header, member):
        raise BadImage(f"the tar has {index_name(header.name)} where the index has {member.name}")


def _recorded_hash(file: int, sample: list[Member]) -> str | None:
    """Of the image, by the sample's own JSON; None where another program wrote it."""
    record = next((m for m in sample if m.extension == "json" and m.bytes <= LARGEST_LABEL), None)
    if record is None:
        return None
    try:
        value = json.loads(os.pread(file, record.bytes, record.offset))
    except (ValueError, RecursionError):
        raise BadImage("its .json is damaged") from None
    # Only `pack` writes both; in what others write, a hash may be that of an earlier form of the image.
    return value.get("sha256") if isinstance(value, dict) and "origin" in value else None


def _title(sample: list[Member]) -> str:
    """Its image, which names the sample."""
    images = [member.name for member in sample if member.extension in IMAGE_EXTENSIONS]
    return (images or [member.name for member in sample] or ["?"])[0]
