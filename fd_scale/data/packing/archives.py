"""Images inside tar and zip archives, read in place as bytes. Nothing is unpacked, no member's name is ever opened.

A compressed tar cannot be read at random, so it is uncompressed once, as one plain tar, beside the shards. What grows
beyond all measure by that, as no photographs do, is refused before it fills the disk.
"""

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from fd_scale.data.image_bytes import LARGEST, Unreadable
from fd_scale.data.item import LARGEST_LABEL, UNLABELLED, Item, OddLabel, clean_name, folder_of, strict_label
from fd_scale.data.left_out import BESIDE, NO_CLASS, NOT_PLAIN, LeftOut, is_image
from fd_scale.data.shards import IMAGE_EXTENSIONS
from fd_scale.data.tars import (
    DESCRIBING,
    TAR_ERRORS,
    Sample,
    TarMember,
    group_samples,
    is_plain,
    is_shard,
    taken,
    tar_members,
)
from fd_scale.errors import BadInput
from fd_scale.files import whole_file

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
UNCOMPRESS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, NotImplementedError)
MOST_UNPACKED = 2**30  # bytes that any archive may unpack to
MOST_GROWTH = 100  # times its own size, where that is more
ZIP_UTF8 = 0x800  # flag of a member whose name is UTF-8
ZIP_MS_DOS = 0  # where it was made; Windows as well


def scan_archive(path: str, prefix: str, spool: Path, left_out: LeftOut) -> Iterator[Item]:
    """List the images of an archive; `prefix` goes before their names, `left_out` counts the rest.

    Raises:
        BadInput: it is damaged, not what its name says, or unpacks to far more than its size.
    """
    archive = Item("", path, archive=path, stamp=file_stamp(path))
    try:
        if path.lower().endswith(".zip"):
            yield from _scan_zip(path, archive, prefix, left_out)
        else:
            plain = _uncompressed(path, spool)
            with open(plain, "rb") as file:
                yield from _scan_tar(file, archive._replace(file=plain), prefix, left_out)
    except (*TAR_ERRORS, *ZIP_ERRORS, OSError) as error:
        if _is_of_storage(error):
            raise
        raise BadInput(f"{path} is damaged or no such archive: {error}; make or copy it again") from None


def read_archive_member(item: Item) -> bytes:
    """Read the bytes of one member.

    Raises:
        Unreadable: too large, damaged, encrypted.
    """
    if isinstance(item.location, tuple):
        offset, size = item.location
        if size > LARGEST:
            raise Unreadable(f"more than {LARGEST} bytes")
        with open(item.file, "rb") as file:
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise Unreadable("cut off by the end of the archive")
        return content
    assert item.location is not None
    archive = _open_zip(item.file, os.getpid())
    try:
        facts = archive.infolist()[item.location]
        if facts.file_size > LARGEST:
            raise Unreadable(f"more than {LARGEST} bytes")
        with archive.open(facts) as member:
            content = member.read(LARGEST + 1)
    except (*ZIP_ERRORS, OSError) as error:
        if _is_of_storage(error):
            raise
        raise Unreadable(str(error) or type(error).__name__) from None
    if len(content) > LARGEST:
        raise Unreadable(f"more than {LARGEST} bytes")
    return content


def without_suffix(name: str) -> str:
    """Remove from the name of an archive what says that it is one; any other name stays as it is."""
    suffix = max((s for s in ARCHIVES if name.lower().endswith(s)), key=len, default="")
    return name.removesuffix(name[-len(suffix) :]) if suffix else name


def _is_of_storage(error: Exception) -> bool:
    """In contrast to damage: what decompressors say, and offsets in an archive that no file can have."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _scan_tar(file: IO[bytes], archive: Item, prefix: str, left_out: LeftOut, end: int | None = None) -> Iterator[Item]:
    """The images of a tar and of the tars in it, each on its own a shard or not."""
    members: list[TarMember] = []
    inner: list[TarMember] = []
    for member in tar_members(file, end):
        if member.isdir() or left_out.add_hidden(member.name, prefix):
            continue
        if is_plain(member):
            into = inner if end is None and member.name.lower().endswith(".tar") else members
            into.append(taken(member))
        elif is_image(member.name):
            yield _item(archive, prefix + member.name)._replace(refused="a link, a device or a sparse file in a tar")
        else:
            left_out.add(NOT_PLAIN)
    yield from (_shard_items if is_shard(members) else _image_items)(file, archive, prefix, members, left_out)
    for tar in inner:
        file.seek(tar.offset)
        yield from _scan_tar(file, archive, f"{prefix}{tar.name}/", left_out, end=tar.offset + tar.size)


def _image_items(
    file: IO[bytes], archive: Item, prefix: str, members: list[TarMember], left_out: LeftOut
) -> Iterator[Item]:
    for member in members:
        if is_image(member.name):
            yield _item(archive, prefix + member.name)._replace(location=(member.offset, member.size))
        else:
            left_out.add_file(member.name)


def _shard_items(
    file: IO[bytes], archive: Item, prefix: str, members: list[TarMember], left_out: LeftOut
) -> Iterator[Item]:
    for sample in group_samples(members, left_out):
        image = next(iter(sample.of(*IMAGE_EXTENSIONS)), sample.members[0][1])
        item = _item(archive, prefix + image.name)._replace(location=(image.offset, image.size), label=UNLABELLED)
        fault = sample.fault()
        try:
            item = item._replace(refused=fault, label=read_label(file, sample, left_out))
        except OddLabel as error:
            item = item._replace(refused=str(error))
        torn = item.label or item.refused != fault or sample.repeated or sample.has_image_ending()
        if fault and not torn:
            for _, member in sample.members:  # a readme, say: no image and no label is lost with it
                left_out.add_file(member.name)
            continue
        yield item
        if not fault:
            for extension, _ in sample.members:
                if extension not in IMAGE_EXTENSIONS + DESCRIBING:
                    left_out.add(BESIDE, f".{extension}")


def _item(archive: Item, name: str) -> Item:
    return archive._replace(origin=clean_name(name), folder=folder_of(name))


def read_label(file: IO[bytes], sample: Sample, left_out: LeftOut) -> str:
    """Read the class that the `.cls` and `.json` members of a sample name, before cleaning; UNLABELLED for none.

    Raises:
        OddLabel: they name what is no class, or two of them.
    """
    described = [(extension, member) for extension, member in sample.members if extension in DESCRIBING]
    named = set()
    for extension, member in described:
        if member.size <= LARGEST_LABEL:
            content = os.pread(file.fileno(), member.size, member.offset)
            named.add(strict_label(content, plain=extension == "cls"))
    named.discard(UNLABELLED)
    if len(named) > 1:
        raise OddLabel(f"it names two classes, {' and '.join(sorted(named))}; take one of them out")
    if described and not named:
        left_out.add(NO_CLASS)
    return named.pop() if named else UNLABELLED


def _scan_zip(path: str, archive: Item, prefix: str, left_out: LeftOut) -> Iterator[Item]:
    with zipfile.ZipFile(path) as opened:
        check_growth(path, sum(member.file_size for member in opened.infolist() if is_image(_zip_name(member))))
        for number, member in enumerate(opened.infolist()):
            name = _zip_name(member)
            if member.is_dir() or left_out.add_hidden(name, prefix):
                continue
            if not is_image(name):
                left_out.add_file(name)
                continue
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            yield _item(archive, prefix + name)._replace(location=number, refused="a link in a zip" if is_link else "")


def _zip_name(member: zipfile.ZipInfo) -> str:
    """As the same file is called in a folder or a tar, where unzip would put it.

    Without the flag that promises UTF-8 `zipfile` takes a name for MS-DOS's encoding. Programs of Unix write the bytes
    that they find, UTF-8 or not, and some of Windows write UTF-8 without the flag.
    """
    told = member.flag_bits & ZIP_UTF8 or member.filename != member.orig_filename.partition("\0")[0]
    if told:
        return member.filename
    try:
        raw = member.filename.encode("cp437")
        return raw.decode(errors="strict" if member.create_system == ZIP_MS_DOS else "surrogateescape")
    except UnicodeError:
        return member.filename


@lru_cache(maxsize=2)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    """One for each process: forked copies would share the position in the file."""
    return zipfile.ZipFile(path)


def _uncompressed(path: str, spool: Path) -> str:
    """A plain tar with the content of this one: itself, or a copy in `spool`."""
    with open(path, "rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in UNCOMPRESS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    # Named by what it is a copy of, so that a command that resumes after a kill finds it.
    copy = spool / f"{hashlib.sha256(f'{path} {file_stamp(path)}'.encode()).hexdigest()[:32]}.tar"
    if not copy.exists():
        with opener(path, "rb") as compressed, whole_file(copy) as plain:
            while part := compressed.read(2**20):
                check_growth(path, plain.tell() + len(part))
                plain.write(part)
    return str(copy)


def check_growth(path: str, unpacked: int) -> None:
    """Refuse an archive that unpacks to `unpacked` bytes or more, if these are many more than it has itself."""
    size = os.path.getsize(path)
    limit = max(MOST_UNPACKED, MOST_GROWTH * size)
    if unpacked > limit:
        raise BadInput(
            f"{path} has {size} bytes and unpacks to more than {limit}, as archives do that are made to fill disks; if "
            f"you trust it, unpack it and pack the folder"
        )


def file_stamp(path: str) -> int:
    """Number that changes when the file does; 0 where there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # whoever reads it says more
        return 0
    return hash((facts.st_size, facts.st_mtime_ns))  # of numbers, so the same in every process
