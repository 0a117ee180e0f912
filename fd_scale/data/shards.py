"""The shard format: ordinary webdataset tars, an index beside each, one manifest.

    manifest.json       format, samples, classes, provenance; name, samples, bytes and sha256 of every shard
    shard-000000.tar    what plain `webdataset` reads: 000000012.jpg, 000000012.json, ...
    shard-000000.idx    byte offsets of the members, in the text format of DALI's `wds2idx`
    skipped.txt         where images were left out: which, and why

A sample is one image member and, beside it, a small JSON: `origin` (its name in the source), `class` and `label` (name
and number, where the source has classes) and `sha256` of the image's bytes, by which `verify` names a damaged sample.
Shards that others wrote and `index` described have what their author put there.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fd_scale.data.numbering import name_some
from fd_scale.errors import BadInput

FORMAT = 1
IMAGE_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff")


@dataclass(frozen=True)
class Shard:
    name: str
    samples: int
    bytes: int
    sha256: str


class ClassCount(NamedTuple):
    name: str
    label: int
    samples: int


@dataclass(frozen=True)
class Manifest:
    shards: tuple[Shard, ...]
    seed: int | None
    """Of the placement; None where the shards are another program's."""
    source: dict[str, Any] = field(default_factory=dict)
    classes: tuple[ClassCount, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: int = 0

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def fingerprint(self) -> str:
        """SHA-256 over the shards' own, in order: which data this is, wherever it lies."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def describe_classes(self) -> str:
        """How many there are, and the names of the first, for people."""
        if not self.classes:
            return "without classes"
        return f"of {len(self.classes)} classes ({name_some(entry.name for entry in self.classes)})"

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "samples": self.samples,
            "bytes": sum(shard.bytes for shard in self.shards),
            "skipped": self.skipped,
            "seed": self.seed,
            "options": self.options,
            "source": self.source,
            "versions": self.versions,
            "classes": [entry._asdict() for entry in self.classes],
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(content, indent=1)


@dataclass(frozen=True)
class Member:
    """One file inside a tar: `bytes` of it start at `offset`."""

    extension: str
    offset: int
    bytes: int
    name: str


def read_manifest(folder: Path, *, check_sizes: bool = True) -> Manifest:
    """The manifest of a packed data set, after a cheap check of every shard's size.

    Raises:
        BadInput: no manifest, another format, no shards, or a shard that is missing or torn.
    """
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            seed=content["seed"],
            source=content["source"],
            classes=tuple(ClassCount(**entry) for entry in content.get("classes", ())),
            options=content.get("options", {}),
            versions=content.get("versions", {}),
            skipped=content.get("skipped", 0),
        )
    except FileNotFoundError:
        raise BadInput(
            f"{folder} holds no manifest.json; make shards with `fd-scale pack IMAGES {folder}`, or describe the "
            f"webdataset shards in it with `fd-scale index {folder}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not a manifest ({error}); pack the data again") from None
    if content.get("format", FORMAT) != FORMAT:
        raise BadInput(f"{path} has format {content['format']}, this version reads {FORMAT}; pack again or update")
    if not manifest.shards or not manifest.samples:
        raise BadInput(f"{path} lists zero shards; pack at least one image")
    for shard in manifest.shards:
        if shard.name != os.path.basename(str(shard.name)):
            raise BadInput(f"{path} lists a shard outside of its folder, {shard.name!r}; it may mean harm")
        if check_sizes:
            _check_size(folder / shard.name, shard.bytes)
    return manifest


def write_index(path: Path, samples: list[list[Member]]) -> None:
    lines = [f"v1.2 {len(samples)}"]
    lines += [" ".join(f"{m.extension} {m.offset} {m.bytes} {m.name}" for m in sample) for sample in samples]
    aside = path.with_suffix(".unfinished")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(path)


def index_name(name: str) -> str:
    """A member's name as the index can hold it: words are separated by spaces there, samples by lines."""
    if name.isprintable() and " " not in name:
        return name
    return "".join(letter if letter.isprintable() and not letter.isspace() else "?" for letter in name)


def check_index_header(path: Path, samples: int) -> None:
    """A look at the first line alone; the rest is read when the shard is.

    Raises:
        BadInput: no such index, or one of another number of samples.
    """
    try:
        with open(path) as file:
            header = file.readline().rstrip("\n")
    except OSError:
        raise BadInput(f"{path} is missing or damaged; pack the data again") from None
    if header != f"v1.2 {samples}":
        raise BadInput(f"{path} announces {header!r}, its shard holds {samples} samples; pack the data again")


def read_index(path: Path) -> list[list[Member]]:
    """The members of every sample of one shard.

    Raises:
        BadInput: missing, or not in the format named above.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        version, count = header.split()
        samples = [_parse_members(line.split(" ")) for line in lines]
    except (OSError, ValueError, IndexError):
        raise BadInput(f"{path} is missing or damaged; pack the data again") from None
    if version != "v1.2" or len(samples) != int(count):
        raise BadInput(f"{path} lists {len(samples)} samples and announces {header!r}; pack the data again")
    return samples


def _parse_members(words: list[str]) -> list[Member]:
    if len(words) % 4:
        raise ValueError
    return [Member(words[i], int(words[i + 1]), int(words[i + 2]), words[i + 3]) for i in range(0, len(words), 4)]


def _check_size(path: Path, expected: int) -> None:
    try:
        found = os.stat(path).st_size
    except FileNotFoundError:
        raise BadInput(f"shard {path} is missing, its manifest.json lists it; copy it again or pack again") from None
    if found != expected:
        raise BadInput(f"shard {path} is torn: {found} bytes, its manifest.json says {expected}; copy or pack it again")
