"""The hidden folder beside OUT where a job gathers its shards until all of them are there.

    .OUT.lease    while a command works in the folder, on whichever host; see `fd_scale.lease`
    .OUT.partial/
      lock        held by it and its workers, which may live for a moment longer
      plan.json   source and options that the shards belong to
      shards/     becomes OUT by one rename
      done/       one record for each finished shard, written after it
      spool/      compressed tars of the source, uncompressed

Killed at any moment, it holds whole shards with their records, and whatever was being written, which is not looked at.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

from fd_scale.data.regular import PLACES
from fd_scale.errors import BadInput, Retry
from fd_scale.files import PARTIAL, refusing_full_disk, write_whole
from fd_scale.lease import held

LEFT_BEHIND = (f".*{PARTIAL}", "*.unfinished")
"""What a killed command was writing; the second is how earlier versions called it."""
LOCK_SECONDS = 5  # the workers of a killed command hold the lock until they have ended too


class Partial:
    def __init__(self, folder: Path):
        self.folder = folder
        self.shards, self.done, self.spool = folder / "shards", folder / "done", folder / "spool"

    def claim(self, plan: dict[str, Any], in_use: Container[str] = ()) -> None:
        """Claim the folder for this job.

        What an earlier, equal command finished stays; after another command only spooled files that are in use do.
        """
        if self.plan() == plan:
            finished = sum(path.suffix == ".json" for path in self.done.glob("*"))
            print(f"going on in {self.folder}: {finished} shards are finished", file=sys.stderr)
        else:
            if self.done.exists():
                print(f"{self.folder} is of another source or other options; starting anew", file=sys.stderr)
            for folder in (self.shards, self.done):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.spool.glob("*"):
                if str(path) not in in_use:
                    path.unlink()
            write_whole(self.folder / "plan.json", json.dumps(plan))
        for folder in (self.shards, self.done):
            folder.mkdir(exist_ok=True)
            for left in (path for pattern in LEFT_BEHIND for path in folder.glob(pattern)):
                left.unlink()

    def plan(self) -> Any:
        return read_record(self.folder / "plan.json")


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Partial]:
    """Work in `folder` as the only process. It stays after an error if anything in it is worth keeping.

    Raises:
        BadInput: no space, no permission.
        Retry: another command works there, or storage failed.
    """
    target = folder.with_name(folder.name.removesuffix(PARTIAL))
    with storage_errors(folder), held(target, str(folder)), _locked(folder):
        partial = Partial(folder)
        try:
            yield partial
        except BaseException:
            if not any([*partial.done.glob("*.json"), *partial.spool.glob("*.tar")]):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            if _take(lock):
                yield
                return
        if time.monotonic() > give_up:
            raise Retry(f"another command's workers are still writing to {folder}; start the same command again")
        time.sleep(0.1)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    # Whoever held it may have finished and removed the folder, and with it the file that is locked now.
    return os.path.exists(lock.name) and os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))


def read_record(path: Path) -> Any:
    """Read the JSON that `write_whole` put there; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn failing writes into the exit contract's two cases: a full disk is the user's, the rest may pass."""
    try:
        with refusing_full_disk(f"no space left for {folder}; free some and start the same command again"):
            yield
    except OSError as error:
        if error.errno in PLACES:
            raise BadInput(f"{error.filename or folder}: {error.strerror}; give a place that can be used") from None
        raise Retry(f"{error.filename or folder}: {error.strerror or error}; start the same command again") from error
