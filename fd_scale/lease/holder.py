"""The process that holds a lease, and whether it is known to be dead."""

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fd_scale.files import parse_json


@dataclass(frozen=True)
class Holder:
    """Content of a lease file. One holder's has always the same length, so that it can be renewed in place."""

    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    started: int
    """Clock ticks from the boot to the start of the process, which tells it from a later one of the same number."""
    since: str
    """For people; nothing is computed from it."""
    owner: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> "Holder | None":
        """Read a holder; None for what is no lease, or not one yet: its creation takes two steps."""
        try:
            holder = cls(**parse_json(content))
        except (ValueError, TypeError):
            return None
        return holder if isinstance(holder.pid, int) and 0 < holder.pid < 2**31 else None

    def is_dead(self) -> bool:
        """Whether this process can see that the holder has ended. False where it cannot know."""
        here = this_process()
        namespace = (self.host, self.boot_id, self.pid_namespace)
        if not self.boot_id or not self.pid_namespace or namespace != (here.host, here.boot_id, here.pid_namespace):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's, and alive
        state, started = _state_of(self.pid)
        return state in ("Z", "X") or (started != 0 and started != self.started)


def this_process() -> Holder:
    return Holder(
        host=socket.gethostname(),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_inode("/proc/self/ns/pid"),
        pid=os.getpid(),
        started=_state_of(os.getpid())[1],
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        owner=secrets.token_hex(16),
        token=secrets.token_hex(16),
    )


def _state_of(pid: int) -> tuple[str, int]:
    """State and start of a process, see proc(5); nothing where they cannot be seen."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else ("", 0)


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
