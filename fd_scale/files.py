"""Files that are written whole or not at all, and small files that are read in bounded time and memory.

What this project writes for people and for itself goes through `whole_file`: aside, to the disk, then into place by one
rename, so that neither a kill nor a power failure leaves half a file. `check_target` refuses, before the work begins, a
location where the result could not go.

Three things come into place by other rules, which are explained where they are: folders that are renamed as a whole
(checkpoints, packed shards, crops), leases, and the record of a failure for the launcher.

A leaf, as `errors` is: every package may import it. It imports yaml only when some is read.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeGuard

from fd_scale.errors import BadInput
from fd_scale.odd_values import is_text, refuse_odd_values

MOST_BYTES = 2**18
"""Of a file of settings. The longest that is shipped has 3 KB; reading this much YAML takes some two seconds."""
MOST_VALUES = 20_000
"""In YAML once its aliases are written out: a file of 300 bytes can ask for billions."""
DEEPEST = 32
"""Sections and lists within each other."""
LONGEST_PATH = 4095
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of a disk, or of what one may put there."""
PARTIAL = ".partial"
"""Ends the name of whatever is still being written."""


class Claim(Protocol):
    """Claim of this process on a target that others may want to write to as well."""

    def check(self) -> None:
        """Raise Retry if another process has the claim by now."""

    def lost(self) -> bool:
        """Whether another process is known to have the claim."""


def check_target(path: str | Path, what: str) -> Path:
    """Refuse a path where no file can be written, before the work for it begins.

    Args:
        what: the name of the path in an error line, such as "OUT".

    Returns:
        The file itself, where the path is a link to it.

    Raises:
        BadInput: it is a folder, a device or a pipe; its name is too long or no text; its folder cannot be written to.
    """
    location = _resolved(path, what)
    mode = _mode(location)
    if mode is not None and stat.S_ISDIR(mode):
        raise BadInput(f"{what} {path} is a folder; name a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise BadInput(f"{what} {path} is a device, a pipe or a socket and would be replaced; name an ordinary file")
    _check_writable(location.parent, path, what)
    return location


def check_folder(path: str | Path, what: str) -> None:
    """Refuse a path where no folder can be made, or a folder in which no file can be; as `check_target`."""
    location = _resolved(path, what)
    mode = _mode(location)
    if mode is not None and not stat.S_ISDIR(mode):
        raise BadInput(f"{what} {path} is a file; give a folder")
    _check_writable(location, path, what)


@contextlib.contextmanager
def whole_file(path: str | Path, claim: Claim | None = None) -> Iterator[BinaryIO]:
    """Open a binary file to write, which comes into place, on the disk, when the block ends well.

    Otherwise nothing changes.

    Args:
        claim: on the path (`fd_scale.lease`). Where another has it by now, nothing is put there or removed.

    Raises:
        BadInput: something else than a file is there, such as a folder or a device.
        OSError: the storage failed.
    """
    named, path = path, Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise BadInput(f"{named} is there and is not a regular file; remove or rename it")
    make_folder(path.parent)
    aside = path.with_name(_aside_name(path.name))
    aside.unlink(missing_ok=True)  # whoever was killed over it, or lost its claim, has no part in the new one
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if claim is not None:
            claim.check()
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        if claim is None or not claim.lost():
            aside.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file with `whole_file` from content that is there already."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def refusing_full_disk(line: str) -> Iterator[None]:
    """Turn the error of a full disk, which is for its user to see to, into `BadInput` with that line."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise BadInput(line) from None


def disk_is_full(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in FULL


def sha256_of(path: str | Path) -> str:
    """Hash the content of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder with its parents; those that are new are on the disk afterwards."""
    new = [location for location in (folder, *folder.parents) if not location.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for location in new:
        sync_folder(location.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_small(path: str | Path, most: int = MOST_BYTES) -> str:
    """Read the text of an ordinary file of at most so many bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, is no text, or is a device or pipe, which might never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):  # opening a folder says what it is
        raise ValueError("it is a device, a pipe or a socket, not an ordinary file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content.decode()


def parse_json(text: str | bytes | bytearray, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON.

    Args:
        pairs: makes something else than a dictionary of an object's names and values.

    Raises:
        ValueError: no JSON, or one that is nested deeper or has longer numbers than Python takes.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Parse YAML to plain values.

    Raises:
        ValueError: no YAML, or one that would take more memory or time than settings do.
    """
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(text)  # which looks at every letter
        node = loader.get_single_node()
        if node is None:
            return None
        values, levels = _written_out(node, {}, 0)
        if levels > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        if values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values, aliases written out")
        tree = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:  # its own text quotes a piece of the file, which may be half a secret
        mark = error.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{at}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    finally:
        if loader is not None:
            loader.dispose()
    refuse_odd_values(tree)
    return tree


def check_words(words: Sequence[str]) -> None:
    """Refuse words of a command line that could be neither stored nor shown.

    Raises:
        BadInput: one is not UTF-8.
    """
    for word in words:
        if not is_text(word):
            raise BadInput(f"{word!r} on the command line is not UTF-8; rename the file, or give it a link")


def _written_out(node: Any, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Values in a YAML node and the levels that they are nested in, each alias counted as what it stands for."""
    import yaml

    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels, or within itself")
    if id(node) not in known:
        inside: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        counts = [_written_out(part, known, depth + 1) for part in inside]
        values, levels = 1 + sum(count for count, _ in counts), 1 + max((level for _, level in counts), default=0)
        known[id(node)] = values, levels
    return known[id(node)]


def _resolved(path: str | Path, what: str) -> Path:
    if not is_text(os.fspath(path)):
        raise BadInput(f"{what} {str(path)!r} holds bytes that are not UTF-8, or a zero byte; choose another name")
    location = Path(os.path.realpath(path))
    longest = max(len(os.fsencode(part)) for part in location.parts)
    if longest > 255 or len(os.fsencode(location)) > LONGEST_PATH:
        shown = str(path) if len(str(path)) < 60 else f"{str(path)[:40]}...{str(path)[-16:]}"
        raise BadInput(f"{what} {shown}: the name is too long ({longest} bytes; file systems take 255); choose another")
    return location


def _mode(location: Path) -> int | None:
    try:
        return location.stat().st_mode
    except OSError:  # absent, or what `_check_writable` names
        return None


def _check_writable(folder: Path, path: str | Path, what: str) -> None:
    """By trying, in the nearest folder that exists: permissions do not tell of read-only disks."""
    there = next(location for location in (folder, *folder.parents) if os.path.lexists(location))
    if not there.is_dir():
        raise BadInput(f"{what} {path} would lie below {there}, which is no folder; choose another place")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if disk_is_full(error):
            raise BadInput(f"no space left for {what} {path}; free space there or choose another disk") from None
        reason = "no files can be made there" if error.errno == errno.ENOENT else str(error.strerror)
        raise BadInput(f"{what} {path} cannot be written: {there}: {reason}; choose another place") from None


def _aside_name(name: str) -> str:
    """Beside it, hidden; a name that is as long as may be has no room for more."""
    aside = f".{name}{PARTIAL}"
    return aside if len(os.fsencode(aside)) <= 255 else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{PARTIAL}"
