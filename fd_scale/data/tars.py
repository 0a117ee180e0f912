"""Reading tars as a list of headers: nothing is ever unpacked to a name that an archive chose.

What a sample is follows webdataset: consecutive regular files whose names agree up to the first dot of the base name.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO

from fd_scale.data.shards import Member, index_name

# What tarfile raises on headers that are damaged, or made to hurt.
TAR_ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)

BLOCK = 512
NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)", re.DOTALL)
META = re.compile(r"__[^/]*__(/|$)")


def tar_members(file: IO[bytes], end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """The headers of a plain tar that starts where `file` stands, without holding them; `offset_data` is the file's.

    Args:
        end: where it must stop, for a tar inside another one.

    Raises:
        TAR_ERRORS: a damaged header. `tarfile` alone would take one in the middle for the end.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (end is None or tar.offset < end) and (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
            if member.size < 0:
                raise tarfile.ReadError(f"negative size at byte {member.offset}")
            yield member
        file.seek(tar.offset)
        if (end is None or tar.offset < end) and file.read(BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}")


def split_name(name: str) -> tuple[str, str] | None:
    """(key, extension in lower case) by webdataset's rule; None for what it passes over."""
    match = NAME.fullmatch(name)
    return None if match is None or META.match(name) else (match["key"], match["extension"].lower())


def group_samples(members: Iterable[tarfile.TarInfo]) -> Iterator[list[tuple[str, tarfile.TarInfo]]]:
    """(extension, member) of one sample after the other. Links, devices and folders belong to none."""
    named = ((split_name(member.name), member) for member in members if is_plain(member))
    known = ((name, member) for name, member in named if name is not None)
    for _, group in groupby(known, key=lambda pair: pair[0][0]):
        yield [(name[1], member) for name, member in group]


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether its bytes lie in the tar as they are."""
    return member.isreg() and not member.issparse()


def index_entries(tar: Path) -> list[list[Member]]:
    """The samples of a shard, as its index lists them."""
    with open(tar, "rb") as file:
        return [
            [Member(index_name(extension), m.offset_data, m.size, index_name(m.name)) for extension, m in sample]
            for sample in group_samples(tar_members(file))
        ]
