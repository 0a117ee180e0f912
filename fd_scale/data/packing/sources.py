"""Sources that `pack` takes, as one list of images: where each lies, its name, and its class.

    a folder of images      class folders or flat; symbolic links to folders are followed
    a tar or zip archive    also compressed tars, and tars of tars such as ILSVRC2012_img_train.tar
    a folder of archives    one class each, or webdataset shards with labels of their own
    a CSV or Parquet list   columns `path` (or `image`, `file`) and, where there is one, `label` (or `class`)

What is hidden, which is what a dot begins, is passed over, alike in folders and archives, and so are files of other
kinds; all of it is counted. Names with a scheme, such as `pipe:`, are refused: nothing is fetched and nothing is run.

Classes: of folders, the first folder below what all images have in common; of lists and shards, what they say. How
they are numbered is the same for all: `fd_scale.data.numbering`.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fd_scale.data.image_bytes import LARGEST, Unreadable
from fd_scale.data.item import UNLABELLED, Item, clean_name, folder_of
from fd_scale.data.left_out import LOOPS, NOT_PLAIN, LeftOut, is_image
from fd_scale.data.numbering import are_splits, class_names, class_numbers, name_some, top_folders
from fd_scale.data.packing.archives import ARCHIVES, file_stamp, read_archive_member, scan_archive, without_suffix
from fd_scale.data.packing.lists import LISTS, read_list
from fd_scale.data.shards import IMAGE_EXTENSIONS
from fd_scale.errors import BadInput, Retry

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Listing:
    kind: str
    items: list[Item]
    labels: dict[str, int]
    """Number of every class."""
    notes: list[str]
    """Lines about what is left out of the source."""

    def fingerprint(self) -> str:
        """SHA-256 over names and labels, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.origin}\0{item.label}\n".encode(errors="backslashreplace"))
        return digest.hexdigest()

    def stamp(self) -> str:
        """SHA-256 that also changes when a file of the source or a number of a class does; a copy has another."""
        digest = hashlib.sha256(f"{self.fingerprint()} {self.labels}".encode())
        for item in self.items:
            digest.update(f"{item.file}\0{item.location}\0{item.stamp}\n".encode(errors="backslashreplace"))
        return digest.hexdigest()


def list_source(source: Path, spool: Path, *, only: str | None = None, force: bool = False) -> Listing:
    """List all images of a source, by name.

    Args:
        spool: folder for what must be uncompressed to be read at random.
        only: take the images of one of the first folders alone, such as the split `train`.
        force: take folders that are called as splits are for classes.

    Raises:
        BadInput: nothing there that can be taken, no image in it, a damaged archive or list, labels that are none,
            splits in place of classes.
    """
    check_source(source)
    left_out, notes = LeftOut(), list[str]()
    if source.suffix.lower() in LISTS:
        kind, items = "list", list(read_list(source, notes))
    elif source.is_file():
        kind, items = "archive", list(scan_archive(str(source), "", spool, left_out))
    else:
        kind, items = _in_folder(source, spool, left_out)
    if left_out:
        notes.append(f"{source.name}: left out {left_out}")
    if not items:
        raise BadInput(
            f"no images in {source}; looked for {', '.join(IMAGE_EXTENSIONS)} in it and below it"
            + (f"; left out {left_out}" if left_out else "")
        )
    items = _one_split(source, kind, items, only, force)
    # By name: the same images give the same shards, whether they come from a folder, its archive or its list.
    items.sort(key=lambda item: (item.origin, item.file))
    return _with_classes(source, kind, items, notes)


def check_source(source: Path) -> None:
    """Check, by its name alone, that a source is anything that can be taken.

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
    """Read the encoded image.

    Raises:
        Unreadable: it cannot be read, or is no plain file of a sane size.
        Retry: storage failed.
    """
    if item.refused:
        raise Unreadable(item.refused)
    try:
        if item.location is not None:
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


def _in_folder(folder: Path, spool: Path, left_out: LeftOut) -> tuple[str, list[Item]]:
    """(kind, images): those of the folder or, where it has none, those of the archives in it."""
    images: list[Item] = []
    archives: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for path, name in _walk(folder, left_out):
        if is_image(name):
            images.append(Item(clean_name(name), path, stamp=file_stamp(path), folder=folder_of(name)))
        else:
            (archives if name.lower().endswith(ARCHIVES) else others).append((path, name))
    if images:
        others += archives
    for _, name in others:
        left_out.add_file(name)
    if images:
        return "folder", images
    return "archives", [
        item for path, name in sorted(archives) for item in scan_archive(path, f"{name}/", spool, left_out)
    ]


def _walk(folder: Path, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """(path, name below `folder`) of all files that are not hidden."""
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        inside = os.path.realpath(here) + os.sep
        below = os.path.relpath(here, folder)
        shown = [f for f in folders if not left_out.add_hidden(os.path.join(below, f))]
        # A link to a folder that it lies in would never end.
        folders[:] = [f for f in shown if not inside.startswith(os.path.realpath(os.path.join(here, f)) + os.sep)]
        left_out.add(LOOPS, count=len(shown) - len(folders))
        for file in files:
            path, name = os.path.join(here, file), os.path.normpath(os.path.join(below, file))
            if left_out.add_hidden(name):
                continue
            if os.path.isfile(path):
                yield path, name
            else:
                left_out.add(NOT_PLAIN)


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be read must not be taken for an empty one


def _one_split(source: Path, kind: str, items: list[Item], only: str | None, force: bool) -> list[Item]:
    """The images of the folder called `only`; all of them for None, unless the first folders are splits."""
    if kind == "list":
        if only is not None:
            raise BadInput(f"--only {only} takes one folder, and {source} is a list; give a list of those images alone")
        names = {item.label for item in items if item.label}
        if are_splits(names) and not force:
            raise BadInput(
                f"the labels of {source} are splits, {name_some(sorted(names))}, and no classes; give a list of one "
                f"split with classes as labels, or take them for classes with --force"
            )
        return items
    _, top = top_folders(item.folder for item in items)
    plain = {folder: without_suffix(name) for folder, name in top.items()}
    names = {name for name in plain.values() if name}
    if only is not None:
        found = [item for item in items if only in (top[item.folder], plain[item.folder])]
        if not found:
            there = ", ".join(clean_name(name) for name in sorted(names)) or "none"
            raise BadInput(f"--only {only}: no such folder among the first ones of {source}, which are {there:.200}")
        return found
    if are_splits(names) and not force:
        split = min(names, key=lambda name: (name.casefold() != "train", name))
        raise BadInput(
            f"the first folders of {source} are splits, {', '.join(sorted(names))}, and no classes; take one with "
            f"--only {split}, or take them for classes with --force"
        )
    return items


def _with_classes(source: Path, kind: str, items: list[Item], notes: list[str]) -> Listing:
    """Settle the class of every item, from its label or its folder; one list of them is enough."""
    if kind == "list" or any(item.label for item in items):
        names = class_names({item.label for item in items if item.label}, source)
        without = sum(not item.label and not item.refused for item in items)
        if names and without:
            notes.append(f"{without} of {len(items)} images have no label")
        for number, item in enumerate(items):
            items[number] = item._replace(label=names[item.label] if item.label else None)
    else:
        folders = _folder_classes(source, kind, items, notes)
        for number, item in enumerate(items):
            items[number] = item._replace(label=folders.get(item.folder))
    image_of = {item.label: item.title() for item in reversed(items) if item.label is not None}
    return Listing(kind, items, class_numbers(image_of), notes)


def _folder_classes(source: Path, kind: str, items: list[Item], notes: list[str]) -> dict[str, str]:
    """The class of every folder; none of any where one image lies beside the class folders."""
    if kind == "archives" and any(item.label == UNLABELLED for item in items):
        return {}  # shards of webdataset's: that each is a file of its own makes it no class
    common, top = top_folders(item.folder for item in items)
    beside = [item for item in items if not top[item.folder]]
    names = class_names({name for name in top.values() if name}, source, lambda name: clean_name(without_suffix(name)))
    if not beside:
        return {folder: names[name] for folder, name in top.items()}
    if names:
        notes.append(
            f"no classes: {len(beside)} images, {beside[0].origin} first, lie beside the class folders "
            f"({len(names)}: {name_some(sorted(names.values()))}); take them away to have classes"
        )
    elif common:
        notes.append(f"no classes: all images lie in one folder, {clean_name(common)}; a list can label them")
    return {}
