"""Reading files of a data set by name: only regular ones, never more than is sane, and errors by the exit contract.

A FIFO or a device under the name of a shard would otherwise be waited for, or read, without end.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fd_scale.errors import BadInput, Retry

# What says that a path is wrong, in contrast to storage that fails.
PLACES = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EBUSY,
    errno.EXDEV,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENXIO,
)


def regular_size(path: Path) -> int:
    """Size of a regular file in bytes.

    Raises:
        BadInput: there is none of that name; a folder, a device.
        Retry: storage failed.
    """
    with reading(path):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file; copy the data set again or pack it again")
    return found.st_size


def open_regular(path: Path) -> int:
    """Open a file and return its descriptor. Raises as `regular_size` does."""
    regular_size(path)
    with reading(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_regular(path: Path, most: int) -> bytes:
    """Read all of a file.

    Raises:
        BadInput: more than `most` bytes, or as `regular_size`.
        Retry: storage failed.
    """
    size = regular_size(path)
    if size > most:
        raise BadInput(f"{path} has {size} bytes, more than {most}; copy the data set again or pack it again")
    with reading(path), open(path, "rb") as file:
        return file.read(size)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file whose reading failed, and say whether trying again can help."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; copy the data set again or pack it again") from None
    except ValueError as error:  # a name that no file can have
        raise BadInput(f"{str(path)!a} cannot be read: {error}") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise BadInput(f"{path} cannot be read: {error.strerror}; allow more of them (ulimit -n)") from None
        if error.errno in PLACES:
            raise BadInput(
                f"{path} cannot be read: {error.strerror}; give this user access, or copy it again"
            ) from None
        raise Retry(f"reading {path} failed: {error.strerror or error}; start the same command again") from error
