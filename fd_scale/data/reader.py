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

from fd_scale.data.item import LARGEST_LABEL, UNLABELLED, label_name
from fd_scale.data.shards import IMAGE_EXTENSIONS, ClassCount, check_index_header, read_index, read_manifest
from fd_scale.errors import BadInput

SYNTHETIC = "synthetic:"
DESCRIBING = ("json", "cls")
"""Extensions of members that may name a sample's class."""


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
        """Its data set's own number of its class. Ask `classes_of_data` first whether all have one."""

    def fingerprint(self) -> str: ...


def open_reader(source: str) -> Reader:
    """A folder that `fd-scale pack` wrote, or `synthetic:N` for dry runs.

    Raises:
        BadInput: neither, or a damaged data set.
    """
    if source.startswith(SYNTHETIC):
        return SyntheticReader(source)
    if "://" in source or source.startswith("pipe:"):
        raise BadInput(f"data.train: {source} is a URL; give a folder of shards. Shell and remote URLs are not read")
    return ShardReader(Path(source))


class ShardReader:
    """`reader[i]` is sample i. Holds one open file for each shard it has read from; forked workers share them.

    Raises:
        BadInput: no manifest, no shards, a torn shard, an index of another shard.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.shard_samples = [shard.samples for shard in self.manifest.shards]
        self.classes = self.manifest.classes
        self._first = np.concatenate([[0], np.cumsum(self.shard_samples)])
        self._open: dict[int, _OpenShard] = {}
        self._numbers = {entry.name: entry.label for entry in self.manifest.classes}
        for shard in self.manifest.shards:
            check_index_header((folder / shard.name).with_suffix(".idx"), shard.samples)

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Sample:
        shard, number = self._find(index)
        return shard.read(number)

    def label(self, index: int) -> int:
        shard, number = self._find(index)
        return self._numbers[shard.label(number)]

    def fingerprint(self) -> str:
        return self.manifest.fingerprint()

    def _find(self, index: int) -> tuple["_OpenShard", int]:
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        if number not in self._open:
            self._open[number] = _OpenShard(self.folder / self.manifest.shards[number].name)
        return self._open[number], index - int(self._first[number])


class _OpenShard:
    """One tar, where its images lie, and what else says of what class they are."""

    def __init__(self, path: Path):
        self.path = path
        images = []
        described = []
        for members in read_index(path.with_suffix(".idx")):
            found = [member for member in members if member.extension.lower() in IMAGE_EXTENSIONS]
            if len(found) != 1:
                name = members[0].name if members else "?"
                raise BadInput(f"{path}: sample {name} holds {len(found)} images instead of one; pack the data again")
            images += found
            labels = [(m.offset, m.bytes, m.extension == "cls") for m in members if m.extension in DESCRIBING]
            described.append((labels + [(0, 0, False)] * 2)[:2])
        # Arrays, not objects: a data set of millions has as many of these, in every worker.
        self._places = np.array([(image.offset, image.bytes) for image in images], dtype=np.int64)
        self._names = np.array([image.name.encode() for image in images])
        self._described = np.array(described, dtype=np.int64)  # (samples, 2, 3)
        self._file = os.open(path, os.O_RDONLY)

    def read(self, number: int) -> Sample:
        offset, size = self._places[number]
        content = os.pread(self._file, int(size), int(offset))
        return Sample(self.name(number), content)

    def label(self, number: int) -> str:
        """Name of its class, or UNLABELLED."""
        for offset, size, plain in self._described[number].tolist():
            if 0 < size <= LARGEST_LABEL:
                name = label_name(os.pread(self._file, size, offset), plain=bool(plain))
                if name:
                    return name
        return UNLABELLED

    def name(self, number: int) -> str:
        return f"{self.path.name}/{self._names[number].decode()}"


class SyntheticReader:
    """Noise, encoded as small JPEGs, so that a dry run decodes too. `synthetic:N` has N samples in shards of 1000."""

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
