"""Images inside tar and zip archives, read in place as bytes. Nothing is unpacked, no member's name is ever opened.

A compressed tar cannot be read at random, so it is uncompressed once, as one plain tar, beside the shards.
"""

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from fd_scale.data.image_bytes import LARGEST, Unreadable
from fd_scale.data.item import LARGEST_LABEL, UNLABELLED, Item, clean_name, label_name
from fd_scale.data.shards import IMAGE_EXTENSIONS
from fd_scale.data.tars import TAR_ERRORS, group_samples, is_plain, tar_members
from fd_scale.errors import BadInput

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
UNCOMPRESS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, NotImplementedError)
SUFFIXES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


def scan_archive(path: str, prefix: str, spool: Path) -> Iterator[Item]:
    """The images of an archive, in its order; `prefix` goes before their names.

    Raises:
        BadInput: it is damaged or not what its name says.
    """
    archive = Item("", path, archive=path, stamp=file_stamp(path))
    try:
        if path.lower().endswith(".zip"):
            yield from _scan_zip(path, archive, prefix)
        else:
            plain = _uncompressed(path, spool)
            with open(plain, "rb") as file:
                yield from _scan_tar(file, archive._replace(file=plain), prefix)
    except (*TAR_ERRORS, *ZIP_ERRORS, OSError) as error:
        if _is_of_storage(error):
            raise
        raise BadInput(f"{path} is damaged or no such archive: {error}; make or copy it again") from None


def read_archive_member(item: Item) -> bytes:
    """The bytes of one member.

    Raises:
        Unreadable: too large, damaged, encrypted.
    """
    if isinstance(item.place, tuple):
        offset, size = item.place
        if size > LARGEST:
            raise Unreadable(f"more than {LARGEST} bytes")
        with open(item.file, "rb") as file:
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise Unreadable("cut off by the end of the archive")
        return content
    assert item.place is not None
    archive = _open_zip(item.file, os.getpid())
    try:
        with archive.open(archive.infolist()[item.place]) as member:
            content = member.read(LARGEST + 1)
    except (*ZIP_ERRORS, OSError) as error:
        if _is_of_storage(error):
            raise
        raise Unreadable(str(error) or type(error).__name__) from None
    if len(content) > LARGEST:
        raise Unreadable(f"more than {LARGEST} bytes")
    return content


def without_suffix(name: str) -> str:
    """The name of an archive without what says that it is one; any other name as it is."""
    suffix = max((s for s in ARCHIVES if name.lower().endswith(s)), key=len, default="")
    return name.removesuffix(name[-len(suffix) :]) if suffix else name


def _is_of_storage(error: Exception) -> bool:
    """In contrast to damage: what decompressors say, and places in an archive that no file can have."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _scan_tar(file: IO[bytes], archive: Item, prefix: str, end: int | None = None) -> Iterator[Item]:
    links: list[Item] = []
    for sample in group_samples(_plain_members(file, archive, prefix, end, links)):
        # Members that describe an image make this a webdataset shard, and what they say the label.
        described = [m for extension, m in sample if extension in ("cls", "json")]
        images = [m for extension, m in sample if f".{extension}".endswith(SUFFIXES)]
        if described and any(extension in IMAGE_EXTENSIONS for extension, _ in sample):
            images = [m for extension, m in sample if extension in IMAGE_EXTENSIONS]  # not `seg.png` beside `jpg`
        label = read_label(file, described) if described and images else None
        for image in images:
            origin = clean_name(prefix + image.name)
            yield archive._replace(origin=origin, place=(image.offset_data, image.size), label=label)
        for extension, member in sample:
            if extension.endswith("tar") and end is None:
                file.seek(member.offset_data)
                inside = f"{prefix}{member.name}/"
                yield from _scan_tar(file, archive, inside, member.offset_data + member.size)
    yield from links


def _plain_members(
    file: IO[bytes], archive: Item, prefix: str, end: int | None, links: list[Item]
) -> Iterator[tarfile.TarInfo]:
    for member in tar_members(file, end):
        if is_plain(member):
            yield member
        elif member.name.lower().endswith(SUFFIXES) and not member.isdir():
            origin = clean_name(prefix + member.name)
            links.append(archive._replace(origin=origin, refused="a link, a device or a sparse file in a tar"))


def read_label(file: IO[bytes], described: list[tarfile.TarInfo]) -> str:
    """The class that the `.cls` or `.json` members of a sample name; UNLABELLED where they name none."""
    for member in described:
        if member.size > LARGEST_LABEL:
            continue
        content = os.pread(file.fileno(), member.size, member.offset_data)
        label = label_name(content, plain=member.name.lower().endswith(".cls"))
        if label:
            return label
    return UNLABELLED


def _scan_zip(path: str, archive: Item, prefix: str) -> Iterator[Item]:
    with zipfile.ZipFile(path) as opened:
        for number, member in enumerate(opened.infolist()):
            if os.path.basename(member.filename).startswith(".") or not member.filename.lower().endswith(SUFFIXES):
                continue
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            refused = "a link in a zip" if is_link else ""
            yield archive._replace(origin=clean_name(prefix + member.filename), place=number, refused=refused)


@lru_cache(maxsize=2)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    """One for each process: forked copies would share the place in the file."""
    return zipfile.ZipFile(path)


def _uncompressed(path: str, spool: Path) -> str:
    """A plain tar with the content of this one: itself, or a copy in `spool`."""
    with open(path, "rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in UNCOMPRESS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    # Named by what it is a copy of, so that a command that goes on after a kill finds it.
    copy = spool / f"{hashlib.sha256(f'{path} {file_stamp(path)}'.encode()).hexdigest()[:32]}.tar"
    if not copy.exists():
        spool.mkdir(parents=True, exist_ok=True)
        aside = copy.with_suffix(".unfinished")
        with opener(path, "rb") as compressed, open(aside, "wb") as plain:
            shutil.copyfileobj(compressed, plain, 2**20)
        aside.replace(copy)
    return str(copy)


def file_stamp(path: str) -> int:
    """Changes when the file does; 0 where there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # whoever reads it says more
        return 0
    return hash((facts.st_size, facts.st_mtime_ns))  # of numbers, so the same in every process
