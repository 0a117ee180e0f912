"""Random access to the samples of packed shards, by number, through the index."""

import os
from dataclasses import dataclass
from pathlib import Path

from fd_scale.data.shards import IMAGE_EXTENSIONS, Manifest, read_index, read_manifest
from fd_scale.errors import BadInput


@dataclass(frozen=True)
class Sample:
    id: str
    """shard/member, which names it in messages."""
    content: bytes
    """The encoded image."""


class ShardReader:
    """`reader[i]` is sample i of the data set, counted shard by shard.

    Holds one open file for each shard it has read from. Reads are positioned, so forked workers share the files.

    Raises:
        BadInput: no manifest, no shards, a torn shard, a sample without image.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._images = []  # (shard name, member)
        for shard in self.manifest.shards:
            for members in read_index((folder / shard.name).with_suffix(".idx")):
                images = [m for m in members if m.extension in IMAGE_EXTENSIONS]
                if len(images) != 1:
                    name = members[0].name if members else "?"
                    raise BadInput(f"{folder / shard.name}: sample {name} holds {len(images)} images instead of one")
                self._images.append((shard.name, images[0]))
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        shard, member = self._images[index]
        if shard not in self._files:
            self._files[shard] = os.open(self.folder / shard, os.O_RDONLY)
        content = os.pread(self._files[shard], member.bytes, member.offset)
        return Sample(f"{shard}/{member.name}", content)
