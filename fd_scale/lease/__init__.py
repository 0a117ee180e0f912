"""Lease: one small file that keeps two starts from writing to the same run folder or export at once.

It names its holder (host, boot, PID namespace, process with its start time) and holds a token that the holder renews
every 20 s. Others ask only whether the token changes, by their own clock, from when they first saw it: the clocks of
two hosts and the times of files are never compared. A lease is stale after 120 s without a change, or at once where the
reader can see that the process is dead, which takes the same host, boot and PID namespace.

Why it holds on network file systems:
- A lease is created with O_EXCL, and a stale one is replaced by a rename of a file that was itself created with O_EXCL:
  one taker at a time. It reads the lease once more before the rename, and once after it.
- The holder renews the file that it has open, never the name. A holder that was stopped for minutes writes to the file
  that its successor has put aside, and cannot damage the new lease.
- Nothing stops such a holder from going on, so it must `check` before it puts anything in place or removes anything.

Leaves out: object stores, which have no such operations; and a mount that shows a file of 120 s ago.

A leaf: imports `errors`, `exits` and `files` alone.
"""

import contextlib
import errno
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fd_scale.errors import BadInput, Retry
from fd_scale.files import disk_is_full
from fd_scale.lease.holder import Holder, this_process
from fd_scale.lease.sigterm import ending_on_sigterm

OF_RUN = "lease.json"
"""In a run folder."""
RENEW_SECONDS = 20.0
STALE_SECONDS = 120.0
POLLS = 40
"""Looks at another's lease between two renewals."""
STALL_SECONDS = 0.2
"""For a step of the training to wait for a renewal that is under way."""
UNUSABLE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


class Lease:
    """A lease that this process has, or wants. `held` is the usual way to it."""

    def __init__(
        self,
        file: Path,
        what: str,
        renew_seconds: float = RENEW_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ):
        """
        Args:
            file: of the lease; its folder is made.
            what: is protected, for messages, such as "run folder runs/a".
        """
        self.file, self.what = file, what
        self.renew_seconds, self.stale_seconds = renew_seconds, stale_seconds
        self._mine = this_process()
        self._claim = file.with_name(f"{file.name}.takeover")
        self._seen: dict[Path, tuple[bytes, float]] = {}  # what another's file holds, and since when on our clock
        self._announced = False
        self._open = -1
        self._renewed = 0.0
        self._lost = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Try to take the lease. Where another has it, look at it for a moment. True when it is ours.

        Raises:
            Retry: another holds it, and is alive.
            BadInput: the place cannot be written to.
        """
        with self._storage_errors():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return self._create() or self._take_over()

    def lost(self) -> bool:
        """Whether another process is known to have taken the lease.

        Costs nothing, unless the lease could not be renewed in time.
        """
        if not self._lost and time.monotonic() - self._renewed > 2 * self.renew_seconds:
            self._renew()  # this process was stopped, or the storage was
        return bool(self._lost)

    def check(self) -> None:
        """Raise Retry if the lease is no longer ours. Reads the file."""
        with self._storage_errors():
            if not self._is_ours():
                self._lost = self._lost or self._successor()
        if self._lost:
            raise Retry(f"{self._lost}; this start has ended without touching anything more")

    def release(self) -> None:
        """Leave the lease to the next process; a lost one is left alone."""
        if self._open < 0 or self._mine.pid != os.getpid():  # a fork of ours has no say
            return
        self._over.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(OSError):
            if not self._lost and self._is_ours():
                self.file.unlink()
        os.close(self._open)
        self._open = -1

    def _create(self) -> bool:
        try:
            self._open = _create_exclusively(self.file, self._mine)
        except FileExistsError:
            return False
        self._begin()
        return True

    def _take_over(self) -> bool:
        now = time.monotonic()  # before the look: what is unchanged then was unchanged for at least so long
        content = _read(self.file)
        if content is None:
            self._seen.clear()
            return False  # released; the next try creates it
        before, since = self._seen.setdefault(self.file, (content, now))
        holder = Holder.from_bytes(content)
        if content != before:
            raise Retry(
                f"{self.what} is in use by {holder or 'another start'}; wait for its end, stop it, or give another "
                f"place"
            )
        if holder and holder.is_dead():
            reason = "which is dead"
        elif now - since >= self.stale_seconds:
            reason = f"which gave no sign of life for {self.stale_seconds:g} s"
        else:
            self._announce(holder)
            time.sleep(self.renew_seconds / POLLS)
            return False
        if not self._replace(content):
            time.sleep(self.renew_seconds / POLLS)
            return False
        print(f"{self.what}: taking over from {holder or 'another start'}, {reason}", file=sys.stderr)
        self._begin()
        return True

    def _announce(self, holder: Holder | None) -> None:
        if not self._announced:
            self._announced = True
            print(
                f"{self.what} was left by, or is in use by, {holder or 'another start'}: waiting for up to "
                f"{self.stale_seconds:g} s to see which",
                file=sys.stderr,
                flush=True,
            )

    def _replace(self, stale: bytes) -> bool:
        """Put ours in the place of a lease with that content, unless another is doing so or it has changed."""
        try:
            handle = _create_exclusively(self._claim, self._mine)
        except FileExistsError:
            self._clear_claim()
            return False
        if _read(self.file) == stale:
            with contextlib.suppress(FileNotFoundError):  # a repeated request of NFS, or another cleared the claim
                os.rename(self._claim, self.file)
        else:
            self._claim.unlink(missing_ok=True)
        if self._is_ours():
            self._open = handle
            return True
        os.close(handle)
        return False

    def _clear_claim(self) -> None:
        """Of a start that was killed while it took over, which takes no longer than a rename."""
        now, content = time.monotonic(), _read(self._claim)
        if content is None:
            self._seen.pop(self._claim, None)
            return
        before, since = self._seen.setdefault(self._claim, (content, now))
        holder = Holder.from_bytes(content)
        if content != before:
            self._seen[self._claim] = (content, now)
        elif (holder and holder.is_dead()) or now - since >= self.stale_seconds:
            self._claim.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._over.wait(self.renew_seconds) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        if not self._lock.acquire(timeout=STALL_SECONDS):
            return  # another thread is at it, and waits for the storage
        try:
            if not self._is_ours():
                self._lost = self._successor()
                return
            os.pwrite(self._open, replace(self._mine, token=secrets.token_hex(16)).to_bytes(), 0)
            os.fsync(self._open)
            self._renewed = time.monotonic()
        except OSError:
            pass  # the storage fails, and may come back
        finally:
            self._lock.release()

    def _is_ours(self) -> bool:
        holder = Holder.from_bytes(_read(self.file) or b"")
        return holder is not None and holder.owner == self._mine.owner

    def _successor(self) -> str:
        content = _read(self.file)
        if content is None:
            # Not taken again: who took it over may have finished, and what this process knows would be old.
            return f"{self.what}: the lease {self.file} was removed, so another start may have worked there"
        return (
            f"{self.what} was taken over by {Holder.from_bytes(content) or 'another start'} while this process gave no "
            f"sign of life"
        )

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.what} cannot be used: {error.filename or self.file}: {error.strerror or error}"
            if error.errno in UNUSABLE:
                raise BadInput(f"{where}; give a place that can be written to") from None
            if disk_is_full(error):
                raise BadInput(f"{where}; free space there and start the same command again") from None
            raise Retry(f"{where}; start the same command again") from error


def held(target: Path, what: str | None = None) -> contextlib.AbstractContextManager[Lease]:
    """Hold the lease of `target`, a file or a folder that is put in place as a whole, while the block writes it.

    Args:
        what: what it is called in messages; by default its path.

    Raises:
        Retry: another start writes it.
        BadInput: its folder cannot be written to.
    """
    return holding(Lease(beside(target), what or str(target)))


@contextlib.contextmanager
def holding(lease: Lease) -> Iterator[Lease]:
    """Wait for the lease, and hold it for the block. SIGTERM releases it, as an exception does.

    Raises:
        Retry, BadInput: see `Lease.take`.
    """
    while not lease.take():
        pass
    with ending_on_sigterm():
        try:
            yield lease
        finally:
            lease.release()


def beside(target: Path) -> Path:
    """Make the lease of a file, or of a folder that is put in place as a whole."""
    return target.with_name(f".{target.name.lstrip('.')}.lease")


def _create_exclusively(file: Path, holder: Holder) -> int:
    """A file that was not there, with the holder in it; open. Raises FileExistsError."""
    handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, holder.to_bytes())
        os.fsync(handle)
    except OSError:
        os.close(handle)
        file.unlink(missing_ok=True)
        raise
    return handle


def _read(file: Path) -> bytes | None:
    """What it holds now; None where it is not there."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
