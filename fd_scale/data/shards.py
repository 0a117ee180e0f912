"""The shard format: ordinary webdataset tars, an index beside each, one manifest.

    manifest.json       format, samples, classes, provenance; name, samples, bytes and sha256 of every shard
    shard-000000.tar    what plain `webdataset` reads: 000000012.jpg, 000000012.json, ...
    shard-000000.idx    byte offsets of the members, in the text format of DALI's `wds2idx`
    skipped.txt         where images were left out: which, and why

A sample is one image member and, beside it, a small JSON: `origin` (its name in the source), `class` and `label` (name
and number, where the source has classes) and `sha256` of the image's bytes, by which `verify` names a damaged sample.
Shards that others wrote and `index` described have what their author put there.

Since format 2 the manifest also holds the SHA-256 of every index and of all that it says itself. Whoever opens a data
set checks the manifest's own, and an index's when it is read; those of the shards take reading all of them, which
`verify` does. Data sets of format 1 are read as they are.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fd_scale.data.checked import Odd, checked
from fd_scale.data.numbering import name_some
from fd_scale.data.regular import open_regular, read_regular, reading
from fd_scale.errors import BadInput
from fd_scale.fields import Limit, Range, Seed
from fd_scale.files import write_whole

FORMAT = 2
FORMATS = (1, 2)
BLOCK = 512  # bytes; what a tar consists of
LARGEST_MANIFEST = 2**30  # bytes; of some millions of shards
LARGEST_INDEX = 2**30
IMAGE_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff")


@dataclass(frozen=True)
class Shard:
    name: str
    samples: Limit
    bytes: Annotated[int, Range(0, 2**63 - 1)]
    sha256: str
    index_sha256: str = ""
    """Of the index beside it; empty in format 1."""

    @property
    def index(self) -> str:
        """Name of the index beside the shard."""
        return Path(self.name).with_suffix(".idx").name


class ClassCount(NamedTuple):
    name: str
    label: Limit
    samples: Limit


@dataclass(frozen=True)
class Manifest:
    shards: tuple[Shard, ...]
    seed: Seed | None
    """Of the placement; None where the shards are another program's."""
    source: dict[str, Any] = field(default_factory=dict)
    classes: tuple[ClassCount, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: Limit = 0
    format: Annotated[int, Range(FORMATS[0], FORMATS[-1])] = FORMAT
    """Of the file that it was read from."""

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def fingerprint(self) -> str:
        """SHA-256 over the shards' own, in order: which data this is, wherever it lies."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def describe_classes(self) -> str:
        """Say, for people, how many classes there are, and name the first."""
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
        return json.dumps({**content, "sha256": _hash_of(content)}, indent=1)


@dataclass(frozen=True)
class Member:
    """One file inside a tar: `bytes` of it start at `offset`."""

    extension: str
    offset: int
    bytes: int
    name: str


def read_manifest(folder: Path, *, check_sizes: bool = True) -> Manifest:
    """Read and check the manifest of a packed data set.

    All that it says is checked and, cheaply, the size of every shard.

    Raises:
        BadInput: no manifest, a damaged one, another format, no shards, or a shard that is missing or torn.
        Retry: storage failed.
    """
    path = folder / "manifest.json"
    with reading(path):
        there = path.exists()
    if not there:
        raise BadInput(
            f"{folder} holds no manifest.json; make shards with `fd-scale pack IMAGES {folder}`, or describe the "
            f"webdataset shards in it with `fd-scale index {folder}`"
        )
    try:
        content = json.loads(read_regular(path, LARGEST_MANIFEST))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not a manifest ({error!s:.80}); copy it again or pack the data again") from None
    manifest = _checked(content, path)
    for shard in manifest.shards if check_sizes else ():
        _check_size(folder / shard.name, shard.bytes)
    return manifest


def _checked(content: Any, path: Path) -> Manifest:
    written = content.get("format", 1) if isinstance(content, dict) else 1
    if type(written) is not int or written not in FORMATS:
        raise BadInput(f"{path} has format {written!a:.40}, this version reads {FORMAT}; pack again or update")
    try:
        manifest = checked(Manifest, content)
    except Odd as why:
        raise _damaged(path, str(why)) from None
    manifest = replace(manifest, format=written)
    if not manifest.shards or not manifest.samples:
        raise BadInput(f"{path} lists zero shards; pack at least one image")
    for shard in manifest.shards:
        if shard.name != os.path.basename(shard.name) or shard.name in ("", ".", ".."):
            raise BadInput(f"{path} lists a shard outside of its folder, {shard.name!r}; it may mean harm")
    # Before the hash, because these say more, and hold in format 1 too.
    for what, names in (("shard", [s.name for s in manifest.shards]), ("class", [c.name for c in manifest.classes])):
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise _damaged(path, f"it lists {what} {twice[0]!r} twice")
    sums = {"samples": manifest.samples, "bytes": sum(shard.bytes for shard in manifest.shards)}
    for name, value in sums.items():
        if content.get(name, value) != value:
            raise _damaged(path, f"it announces {content[name]!r:.40} {name} and lists shards of {value}")
    labelled = sum(entry.samples for entry in manifest.classes)
    if labelled > manifest.samples:
        raise _damaged(path, f"its classes have {labelled} samples, its shards {manifest.samples}")
    stated = content.pop("sha256", None)
    if stated is None and manifest.format == 1:
        return manifest
    if stated != _hash_of(content):
        raise _damaged(path, "it does not say what was written (sha256)")
    return manifest


def _hash_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is damaged: {why}; copy it again or pack the data again")


def write_index(path: Path, samples: list[list[Member]]) -> str:
    """Write the index of a shard and return its SHA-256."""
    lines = [f"v1.2 {len(samples)}"]
    lines += [" ".join(f"{m.extension} {m.offset} {m.bytes} {m.name}" for m in sample) for sample in samples]
    text = "\n".join(lines) + "\n"
    write_whole(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def index_name(name: str) -> str:
    """Convert a member's name to what an index can hold, where spaces separate words and lines separate samples."""
    if name.isprintable() and " " not in name:
        return name
    return "".join(letter if letter.isprintable() and not letter.isspace() else "?" for letter in name)


def check_index_header(folder: Path, shard: Shard) -> None:
    """Check the first line alone; the rest is read when the shard is.

    Raises:
        BadInput: no such index, or one of another number of samples.
        Retry: storage failed.
    """
    path = folder / shard.index
    opened = open_regular(path)
    try:
        with reading(path):
            header = os.pread(opened, 64, 0).partition(b"\n")[0].decode(errors="replace")
    finally:
        os.close(opened)
    if header != f"v1.2 {shard.samples}":
        raise BadInput(f"{path} announces {header!r}, its shard holds {shard.samples} samples; pack the data again")


def read_index(path: Path, of: Shard | None = None) -> list[list[Member]]:
    """Read the members of every sample of one shard.

    Args:
        of: the shard as the manifest describes it; its index must be the one that was written, and lead into it.

    Raises:
        BadInput: missing, not in the format named above, or of another shard.
        Retry: storage failed.
    """
    content = read_regular(path, LARGEST_INDEX)
    if of and of.index_sha256 and hashlib.sha256(content).hexdigest() != of.index_sha256:
        raise BadInput(f"{path} is not the index that was written (sha256); copy it again or pack the data again")
    try:
        header, *lines = content.decode().splitlines()
        version, count = header.split()
        samples = [_parse_members(line.split(" ")) for line in lines]
        announced = int(count)
    except (ValueError, IndexError):
        raise BadInput(f"{path} is missing or damaged; pack the data again") from None
    if version != "v1.2" or len(samples) != announced:
        raise BadInput(f"{path} lists {len(samples)} samples and announces {header!r:.80}; pack the data again")
    if of:
        _check_locations(path, samples, of.bytes)
    return samples


def _parse_members(words: list[str]) -> list[Member]:
    if len(words) % 4:
        raise ValueError
    return [Member(words[i], int(words[i + 1]), int(words[i + 2]), words[i + 3]) for i in range(0, len(words), 4)]


def _check_locations(path: Path, samples: list[list[Member]], size: int) -> None:
    """Whether every member lies in the tar, behind a header of its own."""
    end = 0
    for member in sorted((member for sample in samples for member in sample), key=lambda member: member.offset):
        if member.offset % BLOCK or member.offset < end + BLOCK or not 0 <= member.bytes <= size - member.offset:
            raise BadInput(
                f"{path} has {member.name:.80} at byte {member.offset}, where its shard cannot have it; copy it again "
                f"or pack the data again"
            )
        end = member.offset + member.bytes


def _check_size(path: Path, expected: int) -> None:
    with reading(path):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            raise BadInput(
                f"shard {path} is missing, its manifest.json lists it; copy it again or pack again"
            ) from None
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"shard {path} is not a regular file; copy it again or pack again")
    if found.st_size != expected:
        raise BadInput(
            f"shard {path} is torn: {found.st_size} bytes, its manifest.json says {expected}; copy or pack it again"
        )
