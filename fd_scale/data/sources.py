"""What `pack` can take, as one list of images: where each lies, what it is called, of which class it is.

    a folder of images      class folders or flat; symbolic links to folders are followed
    a tar or zip archive    also compressed tars, and tars of tars such as ILSVRC2012_img_train.tar
    a folder of archives    one class each, or webdataset shards with labels of their own
    a CSV or Parquet list   columns `path` (or `image`, `file`) and, where there is one, `label` (or `class`)

Hidden files are passed over. Names with a scheme, such as `pipe:`, are refused: nothing is fetched and nothing is run.

Classes: of folders, the first folder below what all images have in common; of lists and shards, what they say. They
are numbered by name, as torchvision's ImageFolder does; labels that are numbers in a list or a shard keep their own.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fd_scale.data.archives import ARCHIVES, file_stamp, read_archive_member, scan_archive, without_suffix
from fd_scale.data.image_bytes import LARGEST, Unreadable
from fd_scale.data.item import Item, clean_name
from fd_scale.data.lists import LISTS, read_list
from fd_scale.data.shards import IMAGE_EXTENSIONS
from fd_scale.errors import BadInput, Retry

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Listing:
    kind: str
    items: list[Item]
    labels: dict[str, int]
    """Number of every class."""

    def fingerprint(self) -> str:
        """SHA-256 over names and labels, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.origin}\0{item.label}\n".encode(errors="backslashreplace"))
        return digest.hexdigest()

    def stamp(self) -> str:
        """SHA-256 that also changes when a file of the source does. Not the same for a copy of the source."""
        digest = hashlib.sha256(self.fingerprint().encode())
        for item in self.items:
            digest.update(f"{item.file}\0{item.place}\0{item.stamp}\n".encode(errors="backslashreplace"))
        return digest.hexdigest()


def list_source(source: Path, spool: Path) -> Listing:
    """All images of a source, by name.

    Args:
        spool: folder for what must be uncompressed to be read at random.

    Raises:
        BadInput: nothing there that can be taken, no image in it, a damaged archive or list.
    """
    check_source(source)
    if source.suffix.lower() in LISTS:
        kind, items = "list", list(read_list(source))
    elif source.is_file():
        kind, items = "archive", list(scan_archive(str(source), "", spool))
    else:
        kind, items = "folder", list(_images(source))
        if not items:
            archives = sorted(_walk(source, ARCHIVES))
            kind = "archives"
            items = [item for path, name in archives for item in scan_archive(path, f"{name}/", spool)]
    if not items:
        raise BadInput(f"no images in {source}; looked for {', '.join(IMAGE_EXTENSIONS)} in it and below it")
    # By name: the same images give the same shards, whether they come from a folder, its archive or its list.
    items.sort(key=lambda item: (item.origin, item.file))
    return _with_classes(kind, items)


def check_source(source: Path) -> None:
    """Whether it is anything that can be taken, from its name alone.

    Raises:
        BadInput: it is not.
    """
    if source.is_dir() or (source.is_file() and source.name.lower().endswith((*ARCHIVES, *LISTS))):
        return
    if SCHEME.match(str(source)) and not source.exists():
        raise BadInput(f"{source} is a URL; pack reads local files only and runs no command: fetch it first")
    kinds = f"a folder of images, an archive ({' '.join(ARCHIVES)}) or a list ({' '.join(LISTS)})"
    raise BadInput(f"{source} is not a folder, nor an archive or a list of a known kind; give {kinds}")


def read_item(item: Item) -> bytes:
    """The encoded image.

    Raises:
        Unreadable: it cannot be read, or is no plain file of a sane size.
        Retry: storage failed.
    """
    if item.refused:
        raise Unreadable(item.refused)
    try:
        if item.place is not None:
            return read_archive_member(item)
        if not os.path.isfile(item.file):
            raise Unreadable("no such file")
        with open(item.file, "rb") as file:
            content = file.read(LARGEST + 1)
    except PermissionError as error:
        raise Unreadable(str(error.strerror)) from None
    except OSError as error:
        # Never a reason to leave an image out: it may be whole.
        raise Retry(f"reading {item.file} failed: {error}; start the same command again") from error
    if len(content) > LARGEST:
        raise Unreadable(f"more than {LARGEST} bytes")
    return content


def _images(folder: Path) -> Iterator[Item]:
    for path, name in _walk(folder, tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)):
        yield Item(clean_name(name), path, stamp=file_stamp(path))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(path, name below `folder`) of all files with one of these endings."""
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        inside = os.path.realpath(here) + os.sep
        # A link to a folder that it lies in would never end.
        folders[:] = [
            f
            for f in folders
            if f[0] != "." and not inside.startswith(os.path.realpath(os.path.join(here, f)) + os.sep)
        ]
        for file in files:
            path = os.path.join(here, file)
            if file.lower().endswith(suffixes) and file[0] != "." and os.path.isfile(path):
                yield path, os.path.relpath(path, folder)


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be read must not be taken for an empty one


def _with_classes(kind: str, items: list[Item]) -> Listing:
    """Settle the class of every item; one list of them is enough."""
    own = kind == "list" or any(item.label is not None for item in items)
    folders = {} if own else _folder_classes({os.path.dirname(item.origin) for item in items})
    for place, item in enumerate(items):
        items[place] = item._replace(label=(item.label or None) if own else folders[os.path.dirname(item.origin)])
    return Listing(kind, items, class_numbers({item.label for item in items if item.label is not None}, own))


def _folder_classes(folders: set[str]) -> dict[str, str | None]:
    common = os.path.commonpath(list(folders))
    below = {folder: folder[len(common) :].lstrip("/").split("/")[0] for folder in folders}
    if not all(below.values()):  # some images lie in no class folder
        return dict.fromkeys(folders)
    return {folder: without_suffix(name) for folder, name in below.items()}


def class_numbers(names: set[str], own: bool) -> dict[str, int]:
    if own and all(re.fullmatch(r"[0-9]{1,9}", name) for name in names):
        return {name: int(name) for name in sorted(names, key=int)}
    return {name: number for number, name in enumerate(sorted(names))}
