"""Random access to the samples of packed shards, by number, through the index.

A shard's index is read when the shard is first touched, so that a rank of many holds what it reads and no more.
Positioned reads rather than a memory map: equally fast from the page cache, and a shard that is cut short under a
running job is a bad sample, where a map would end the process with a bus error.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from fd_scale.data.item import LARGEST_LABEL, clean_name, label_name, packed_number
from fd_scale.data.regular import open_regular, reading
from fd_scale.data.shards import (
    IMAGE_EXTENSIONS,
    ClassCount,
    Manifest,
    Member,
    Shard,
    check_index_header,
    read_index,
    read_manifest,
)
from fd_scale.data.tars import DESCRIBING, header_of, is_header_of
from fd_scale.errors import BadInput

SYNTHETIC = "synthetic:"


class NoClass(Exception):
    """Error that says why the label of a sample is none of its data set; the end of a sentence."""


@dataclass(frozen=True)
class Sample:
    id: str
    """shard/member, which names it in messages."""
    content: bytes
    """The encoded image."""


class Reader(Protocol):
    """One data set: samples by number, counted shard by shard."""

    shard_samples: list[int]
    classes: tuple[ClassCount, ...]

    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> int:
        """Number of a sample's class in its data set.

        Ask `classes_of_data` first whether all samples have one.

        Raises:
            BadInput: it names a class that its data set does not have.
        """

    def fingerprint(self) -> str: ...


def open_reader(source: str) -> Reader:
    """Open a folder that `fd-scale pack` wrote, or `synthetic:N` for dry runs.

    Raises:
        BadInput: neither, or a damaged data set.
    """
    if source.startswith(SYNTHETIC):
        return SyntheticReader(source)
    if "://" in source or source.startswith("pipe:"):
        raise BadInput(f"data.train: {source} is a URL; give a folder of shards. Shell and remote URLs are not read")
    return ShardReader(Path(source))


class ShardReader:
    """Reader of packed shards: `reader[i]` is sample i.

    It holds one open file for each shard that it has read from; forked workers share them.

    Raises:
        BadInput: no manifest or a damaged one, no shards, a torn shard, an index of another shard; when a shard is
            first read, a damaged index or a shard that has been exchanged.
        Retry: storage failed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.shard_samples = [shard.samples for shard in self.manifest.shards]
        self.classes = self.manifest.classes
        self._first = np.concatenate([[0], np.cumsum(self.shard_samples)])
        self._open: dict[int, _OpenShard] = {}
        self._classes = KnownClasses(self.manifest)
        for shard in self.manifest.shards:
            check_index_header(folder, shard)

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Sample:
        shard, number = self._find(index)
        return shard.read(number)

    def label(self, index: int) -> int:
        shard, number = self._find(index)
        try:
            label = self._classes.number(shard.descriptions(number))
            if label is None:
                raise NoClass("names no class")
        except NoClass as why:
            raise BadInput(
                f"{self.folder}: sample {shard.name(number)} {why}; `fd-scale verify {self.folder}` names all such"
            ) from None
        return label

    def fingerprint(self) -> str:
        return self.manifest.fingerprint()

    def _find(self, index: int) -> tuple["_OpenShard", int]:
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        if number not in self._open:
            self._open[number] = _OpenShard(self.folder, self.manifest.shards[number])
        return self._open[number], index - int(self._first[number])


class KnownClasses:
    """Table of classes in a manifest, and what of it a sample means."""

    def __init__(self, manifest: Manifest):
        self._numbers = {entry.name: entry.label for entry in manifest.classes}
        # Shards that `pack` wrote and `index` described hold the numbers that they once had among others.
        self._has_packed_numbers = manifest.seed is not None

    def number(self, descriptions: list[tuple[bytes, bool]]) -> int | None:
        """Number of the class that a sample's `.cls` and `.json` members name; None where they name none.

        Args:
            descriptions: their bytes, and whether it is a `.cls`.

        Raises:
            NoClass: one that is not in the table, or one whose number is another there.
        """
        for content, plain in descriptions:
            name = label_name(content, plain=plain)
            if not name:
                continue
            known = self._numbers.get(name)
            if known is None:
                raise NoClass(f"is of class {name!r:.80}, which is not among the classes of manifest.json")
            stated = packed_number(content) if self._has_packed_numbers else None
            if stated is not None and stated != known:
                raise NoClass(f"gives class {name!r:.80} the number {stated!r:.40}, manifest.json gives it {known}")
            return known
        return None


class _OpenShard:
    """One tar, where its images lie, and what else says of what class they are."""

    def __init__(self, folder: Path, shard: Shard):
        self.path = folder / shard.name
        samples = read_index(folder / shard.index, shard)
        images = []
        described = []
        for members in samples:
            found = [member for member in members if member.extension.lower() in IMAGE_EXTENSIONS]
            if len(found) != 1:
                name = members[0].name if members else "?"
                raise BadInput(
                    f"{self.path}: sample {name} holds {len(found)} images instead of one; pack the data again"
                )
            images += found
            labels = [(m.offset, m.bytes, m.extension == "cls") for m in members if m.extension in DESCRIBING]
            described.append((labels + [(0, 0, False)] * 2)[:2])
        # Arrays, not objects: a data set of millions has as many of these, in every worker.
        self._locations = np.array([(image.offset, image.bytes) for image in images], dtype=np.int64)
        self._names = np.array([image.name.encode() for image in images])
        self._described = np.array(described, dtype=np.int64)  # (samples, 2, 3)
        self._file = open_regular(self.path)
        for image in images[:1] + images[-1:]:
            self._check_is_there(image)

    def read(self, number: int) -> Sample:
        offset, size = self._locations[number]
        return Sample(self.name(number), self._bytes(int(offset), int(size)))

    def descriptions(self, number: int) -> list[tuple[bytes, bool]]:
        """What may name the class of a sample, as `KnownClasses.number` takes it."""
        return [
            (self._bytes(offset, size), bool(plain))
            for offset, size, plain in self._described[number].tolist()
            if 0 < size <= LARGEST_LABEL
        ]

    def name(self, number: int) -> str:
        return f"{clean_name(self.path.name)}/{self._names[number].decode()}"

    def _bytes(self, offset: int, size: int) -> bytes:
        with reading(self.path):
            return os.pread(self._file, size, offset)

    def _check_is_there(self, member: Member) -> None:
        """Whether this may be the shard of its index. A damaged header does no harm: it is not read again."""
        with reading(self.path):
            header = header_of(self._file, member)
        if header is not None and not (is_header_of(header, member) and header.size == member.bytes):
            raise BadInput(
                f"{self.path} is not the shard of its index, which has {member.name} where the tar has "
                f"{clean_name(header.name)}; two shards may have been exchanged: copy them again"
            )


class SyntheticReader:
    """Reader of noise, encoded as small JPEGs, so that a dry run decodes too.

    `synthetic:N` has N samples in shards of 1000.
    """

    def __init__(self, source: str):
        count = source.removeprefix(SYNTHETIC)
        if not count.isdigit() or int(count) < 1:
            raise BadInput(
                f"data.train: {source} is not `synthetic:N` with a number of samples, such as synthetic:10000"
            )
        full, rest = divmod(int(count), 1000)
        self.shard_samples = [1000] * full + ([rest] if rest else [])
        self.classes: tuple[ClassCount, ...] = ()
        self._source = source

    def __getitem__(self, index: int) -> Sample:
        coarse = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return Sample(f"{self._source}/{index}", buffer.getvalue())

    def label(self, index: int) -> int:
        raise LookupError(f"{self._source} has no labels")

    def fingerprint(self) -> str:
        return self._source
