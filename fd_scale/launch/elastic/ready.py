"""Says whether this host can take ranks: `python -m fd_scale.launch.elastic.ready`, started by `probing` through ssh.

That it runs at all shows that the working folder, Python and this package are in their places. One line of standard
input asks for more: {"folder": where the run lies or null, "launch": the id of a launch, "host": this host's name in
the hostfile}. The answer is a line on standard output, `ready` or `busy`: ranks of an earlier round are still ending.
A host that cannot take ranks ends with 1 and a line on standard error.
"""

import contextlib
import json
import sys
from pathlib import Path

from fd_scale.files import parse_json

READY, BUSY = "ready", "busy"
LAUNCH = "FD_SCALE_LAUNCH"
"""Environment variable: tells the processes of one `launch` that starts again from all others."""


def has_launcher_of(launch: str, host: str) -> bool:
    """Whether a launcher that an earlier round started on this host is still there; its ranks cannot outlive it.

    The name counts as well as the id, because two entries of a hostfile may be one machine under two names.
    """
    mark = f"{LAUNCH}={launch}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"--node" in words[:-1] and mark in (process / "environ").read_bytes().split(b"\0"):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if parse_json(words[words.index(b"--node") + 1])["host"] == host:
                        return True
    return False


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    if asked["folder"] is not None and not Path(asked["folder"]).is_dir():
        sys.exit(f"there is no run folder {asked['folder']} there: is the shared storage mounted?")
    print(BUSY if has_launcher_of(asked["launch"], asked["host"]) else READY, flush=True)


if __name__ == "__main__":
    main()
