"""Tars as lists of headers: nothing is ever unpacked to a name that an archive chose.

What a sample is says webdataset itself, whose functions split names and group members here, for `pack` and `index`.
Before they see it, what is hidden is left out: `cat/._1.jpg` would end the sample that it is in.
"""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, NamedTuple

from fd_scale.data.item import hidden_part, name_parts
from fd_scale.data.left_out import NOT_PLAIN, UNNAMED, LeftOut
from fd_scale.data.shards import BLOCK, IMAGE_EXTENSIONS, Member, index_name
from fd_scale.errors import BadInput

# What tarfile raises on headers that are damaged, or made to hurt.
TAR_ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)

LARGEST_HEADERS = 2**18  # bytes; of one member, with its long names and attributes
META = re.compile(r"__[^/]*__(/|$)")  # webdataset's reader of tars passes over these before it splits any name
RESERVED = ("__key__", "__url__", "__bad__", "__local_path__")  # endings with a meaning in webdataset's samples
DESCRIBING = ("cls", "json")


class TarMember(NamedTuple):
    """The part of a header that is kept; `tarfile` keeps several times as much, and there may be millions."""

    name: str
    offset: int
    """Of its bytes in the file."""
    size: int


class Sample(NamedTuple):
    """Group of members that webdataset takes for one sample."""

    members: list[tuple[str, TarMember]]
    """(extension in lower case, member)"""
    repeated: bool = False
    """Whether it has an extension twice, at which webdataset stops."""

    def of(self, *extensions: str) -> list[TarMember]:
        return [member for extension, member in self.members if extension in extensions]

    def fault(self) -> str:
        """Reason why it is not one image with what belongs to it; empty where it is."""
        if self.repeated:
            return "two members of one name"
        images = len(self.of(*IMAGE_EXTENSIONS))
        if images == 1:
            return ""
        hint = "; a key ends at the first dot of its base name" if not images and self.has_image_ending() else ""
        return f"{images} images instead of one{hint}"

    def has_image_ending(self) -> bool:
        """Whether an extension is that of an image or ends so, as `0.jpg` and `seg.png` do."""
        return any(extension.rpartition(".")[2] in IMAGE_EXTENSIONS for extension, _ in self.members)

    def entry(self) -> list[Member]:
        """Convert the sample to its entry in the index."""
        return [Member(index_name(ext), m.offset, m.size, index_name(m.name)) for ext, m in self.members]


@cache
def webdataset_functions() -> ModuleType:
    """Import webdataset's functions, at the first tar.

    It brings torch: a second that other sources need not wait for.

    Ask for it before forking workers that will read tars, so that they need not import it once each.
    """
    from webdataset import tariterators

    return tariterators


class _Headers:
    """A tar as `tarfile` may read it: it takes the length of a name from the archive, and reads that much at once."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.left = LARGEST_HEADERS

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"headers of more than {LARGEST_HEADERS} bytes for one member")
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        return self.file.seek(offset)

    def tell(self) -> int:
        return self.file.tell()


def tar_members(file: IO[bytes], end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a plain tar that starts at the position of `file`.

    Their `offset_data` counts from the start of the file.

    Args:
        end: where it must stop, for a tar inside another one.

    Raises:
        TAR_ERRORS: a damaged header, or one made to fill memory. `tarfile` alone would take one in the middle for the
            end.
    """
    headers = _Headers(file)
    with tarfile.TarFile(fileobj=headers) as tar:  # type: ignore[arg-type]
        while (end is None or tar.offset < end) and (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
            headers.left = LARGEST_HEADERS
            if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > LARGEST_HEADERS:
                raise tarfile.ReadError(f"global headers of more than {LARGEST_HEADERS} bytes")
            if member.size < 0:
                raise tarfile.ReadError(f"negative size at byte {member.offset}")
            yield member
        file.seek(tar.offset)
        if (end is None or tar.offset < end) and file.read(BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}")


def header_of(file: int, member: Member) -> tarfile.TarInfo | None:
    """Read the header before a member that an index names; None where there is none, or a damaged one."""
    header = os.pread(file, BLOCK, max(0, member.offset - BLOCK))
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def is_header_of(header: tarfile.TarInfo, member: Member) -> bool:
    """Whether a header is that of a member.

    Others write longer names and foreign letters into a block before it.
    """
    name = index_name(header.name)
    return len(name) >= 100 or not member.name.isascii() or member.name == name


def plain_members(members: Iterable[tarfile.TarInfo], left_out: LeftOut) -> Iterator[TarMember]:
    """Select the members that are read: not hidden, and with their bytes in the tar as they are."""
    for member in members:
        if member.isdir() or left_out.add_hidden(member.name):
            continue
        if is_plain(member):
            yield taken(member)
        else:
            left_out.add(NOT_PLAIN)


def taken(member: tarfile.TarInfo) -> TarMember:
    return TarMember(member.name, member.offset_data, member.size)


def group_samples(members: Iterable[TarMember], left_out: LeftOut) -> Iterator[Sample]:
    """Yield one sample after the other, of members that are plain and not hidden.

    Raises:
        BadInput: a member with an ending that webdataset keeps for itself.
    """
    webdataset = webdataset_functions()
    repeated: list[BaseException] = []  # in the sample that is being gathered

    def named() -> Iterator[dict]:
        for member in members:
            key, extension = webdataset.base_plus_ext(member.name)
            if key is None or META.match(member.name):
                left_out.add(UNNAMED)
                continue
            if extension.lower() in RESERVED:
                raise BadInput(
                    f"{member.name!a} in a tar ends in .{extension}, which means something else to webdataset; "
                    f"rename it"
                )
            yield {"fname": member.name, "data": member, "__url__": ""}

    def note(error: Exception) -> bool:
        repeated.append(error)
        return True

    # It hands a sample on before it looks at the first member of the next, so what is noted belongs to this one.
    for found in webdataset.group_by_keys(named(), handler=note):
        inside = [(extension, member) for extension, member in found.items() if extension not in RESERVED]
        yield Sample(inside, bool(repeated))
        repeated.clear()


def is_shard(members: Iterable[TarMember]) -> bool:
    """Whether a tar is one of webdataset's with labels and not just an archive: a `.cls`, or a `.json` beside an image.

    Beside, by name: a `.json` whose sample was torn apart tells as much as one in its place.
    """
    described, images = set(), set()
    for member in members:
        stem, _, ending = member.name.rpartition(".")
        if ending.lower() == "cls":
            return True
        if ending.lower() == "json":
            described.add(stem)
        elif ending.lower() in IMAGE_EXTENSIONS:
            images.add(stem)
    return not described.isdisjoint(images)


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member's bytes lie in the tar as they are."""
    return member.isreg() and not member.issparse()


def index_entries(tar: Path) -> list[list[Member]]:
    """List the samples of a shard, as its index has them."""
    with open(tar, "rb") as file:
        return [sample.entry() for sample in group_samples(plain_members(tar_members(file), LeftOut()), LeftOut())]


def hidden_entries(tar: Path) -> list[list[Member]]:
    """Select the samples in hidden folders, which are left out now and are in an index of an earlier version."""
    with open(tar, "rb") as file:
        plain = (taken(member) for member in tar_members(file) if is_plain(member))
        hidden = (m for m in plain if hidden_part(m.name) and not name_parts(m.name)[-1].startswith("."))
        return [sample.entry() for sample in group_samples(hidden, LeftOut())]
