"""Waits for the ranks of a lost host to end, by the lease of their run. Compares no clocks of two hosts."""

import time
from collections.abc import Callable
from pathlib import Path

from fd_scale.lease import RENEW_SECONDS
from fd_scale.lease.holder import Holder

QUIET_SECONDS = 1.25 * RENEW_SECONDS
"""Without a renewal of a lease, after which nobody is taken to renew it."""
LONGEST_QUIET_WAIT = 150.0


def wait_until_quiet(
    lease: Path,
    pause: Callable[[float], bool],
    quiet_seconds: float = QUIET_SECONDS,
    longest: float = LONGEST_QUIET_WAIT,
) -> None:
    """Wait while a process renews a lease that this machine cannot see to be dead.

    The ranks would end with 75 the moment that they see a renewal. When nobody renews it, they wait by themselves until
    it is stale. A process that renews it for longer than a lost host keeps its ranks is another start, and they say so.
    """
    began = since = time.monotonic()
    seen = _content(lease)
    while seen is not None and time.monotonic() - since < quiet_seconds and time.monotonic() - began < longest:
        holder = Holder.from_bytes(seen)
        if (holder and holder.is_dead()) or not pause(min(1.0, quiet_seconds / 10)):
            return
        now = _content(lease)
        if now != seen:
            seen, since = now, time.monotonic()


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
