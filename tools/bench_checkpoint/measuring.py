"""Time over all ranks, and files without the page cache."""

import contextlib
import os
import time
from pathlib import Path

from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.ranks import Ranks


class timed(contextlib.AbstractContextManager):
    """Measure the seconds from a common start of all ranks until `stop`, or the end of the block."""

    def __enter__(self) -> "timed":
        process_group.barrier()
        self.seconds, self._began = 0.0, time.perf_counter()
        return self

    def stop(self) -> None:
        self.seconds = self.seconds or time.perf_counter() - self._began

    def __exit__(self, *_: object) -> None:
        self.stop()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def forget_cached(folder: Path, ranks: Ranks) -> None:
    """Drop files from the page cache, so that loading reads the disk, as after a restart elsewhere."""
    for path in files_of(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    process_group.barrier()
