"""Reading a packed data set again, all of it, and naming what is damaged.

Tar against manifest (SHA-256), index against tar, every image against the hash beside it, and decoded. Shards of other
programs carry no hash of each image: there a flipped bit that still decodes is named by its shard alone.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from functools import partial as bind
from pathlib import Path
from typing import IO, NamedTuple

from fd_scale.data.image_bytes import LARGEST, BadImage, check_decodes
from fd_scale.data.item import LARGEST_LABEL
from fd_scale.data.pack import Progress, check_positive, keep_results
from fd_scale.data.shard_writer import sha256_of
from fd_scale.data.shards import IMAGE_EXTENSIONS, Member, Shard, index_name, read_index, read_manifest
from fd_scale.data.tars import BLOCK, TAR_ERRORS, hidden_entries, index_entries, webdataset_functions
from fd_scale.data.workers import in_workers
from fd_scale.errors import BadInput


class Damage(NamedTuple):
    where: str
    """shard/member, or the shard alone."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def verify(folder: Path, *, workers: int = 1, progress: Progress = lambda items, total, label: items) -> list[Damage]:
    """Read everything again.

    Returns:
        What is damaged, in the order of the shards; nothing where all is whole.

    Raises:
        BadInput: no manifest, or one that cannot be read.
        Retry: a worker was killed.
    """
    check_positive(workers=workers)
    manifest = read_manifest(folder, check_sizes=False)
    webdataset_functions()
    found: list[tuple[str, list[Damage]]] = []
    events = in_workers(bind(_verify_shard, folder), manifest.shards, min(workers, len(manifest.shards)))
    for _ in progress(keep_results(events, found), manifest.samples, "verifying"):
        pass
    return [damage for _, damages in sorted(found) for damage in damages]


def _verify_shard(folder: Path, shard: Shard) -> Iterator[tuple[str, list[Damage]] | None]:
    path = folder / shard.name
    damages: list[Damage] = []
    try:
        with open(path, "rb") as file:
            whole = sha256_of(path) == shard.sha256
            for sample in _samples(path, shard, whole, damages):
                damages += _verify_sample(file, shard.name, sample)
                yield None
    except OSError as error:
        damages.append(Damage(shard.name, f"cannot be read: {error.strerror or error}"))
    else:
        if not whole and not damages:
            damages.append(Damage(shard.name, "not the bytes that the manifest says, though every image is whole"))
    yield shard.name, damages


def _samples(path: Path, shard: Shard, whole: bool, damages: list[Damage]) -> list[list[Member]]:
    """Where the samples of a shard lie. A tar that is whole says so itself, and shows what the index is worth."""
    try:
        indexed = read_index(path.with_suffix(".idx"))
    except BadInput as error:
        damages.append(Damage(path.with_suffix(".idx").name, str(error)))
        indexed = None
    if indexed is not None and len(indexed) != shard.samples:
        reason = f"lists {len(indexed)} samples, the manifest says {shard.samples}"
        damages.append(Damage(path.with_suffix(".idx").name, reason))
    if not whole and indexed is not None:
        return indexed
    try:
        there = index_entries(path)
        earlier = hidden_entries(path) if indexed is not None and len(indexed) > len(there) else []
    except TAR_ERRORS as error:
        damages.append(Damage(path.name, f"the tar cannot be read: {error}"))
        return indexed or []
    known = {tuple(sample) for sample in there + earlier}
    for sample in indexed or ():
        if tuple(sample) not in known:
            damages.append(Damage(f"{path.name}/{_title(sample)}", "the index does not agree with the tar"))
    return there if indexed is None else [sample for sample in indexed if tuple(sample) in known]


def _verify_sample(file: IO[bytes], shard: str, sample: list[Member]) -> list[Damage]:
    where = f"{shard}/{_title(sample)}"
    images = [member for member in sample if member.extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        return [Damage(where, f"{len(images)} images instead of one")]
    try:
        for member in sample:
            _check_header(file, member)
        expected = _recorded_hash(file, sample)
        content = os.pread(file.fileno(), images[0].bytes, images[0].offset)
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise BadImage("not the bytes that were packed")
        check_decodes(content)
    except BadImage as error:
        return [Damage(where, str(error))]
    return []


def _check_header(file: IO[bytes], member: Member) -> None:
    """Whether the tar has at that place what the index says."""
    if member.offset + member.bytes > os.fstat(file.fileno()).st_size:
        raise BadImage(f"{member.name} lies beyond the end of the torn shard")
    if member.bytes > LARGEST and member.extension in IMAGE_EXTENSIONS:
        raise BadImage(f"more than {LARGEST} bytes")
    try:
        header = os.pread(file.fileno(), BLOCK, max(0, member.offset - BLOCK))
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise BadImage(f"the tar header of {member.name} is damaged") from None
    # Longer names and foreign letters stand in a block of their own, which other programs write before this one.
    name = index_name(found.name)
    if len(name) < 100 and member.name.isascii() and member.name != name:
        raise BadImage(f"the tar has {name} where the index has {member.name}")


def _recorded_hash(file: IO[bytes], sample: list[Member]) -> str | None:
    """Of the image, by the sample's own JSON; None where another program wrote it."""
    record = next((m for m in sample if m.extension == "json" and m.bytes <= LARGEST_LABEL), None)
    if record is None:
        return None
    try:
        value = json.loads(os.pread(file.fileno(), record.bytes, record.offset))
    except (ValueError, RecursionError):
        raise BadImage("its .json is damaged") from None
    # Only `pack` writes both; in what others write, a hash may be that of an earlier form of the image.
    return value.get("sha256") if isinstance(value, dict) and "origin" in value else None


def _title(sample: list[Member]) -> str:
    """Its image, which names the sample."""
    images = [member.name for member in sample if member.extension in IMAGE_EXTENSIONS]
    return (images or [member.name for member in sample] or ["?"])[0]
