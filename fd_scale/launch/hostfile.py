"""Reads DeepSpeed's hostfile: one `host slots=N` a line, `#` comments, blank lines.

Leaves out DeepSpeed's include and exclude filters: comment a line out instead.
"""

import re
from pathlib import Path

from fd_scale.errors import BadInput
from fd_scale.files import read_small

MOST_BYTES = 2**22  # some hundred thousand hosts
# Host names end up on an ssh command line, so nothing that ssh or a shell could read as anything else passes.
HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9:][A-Za-z0-9.:_-]*")
SLOTS = re.compile(r"slots=([1-9][0-9]{0,3})")
LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


def read_hostfile(path: Path) -> dict[str, int]:
    """Host -> number of ranks, in the order of the file; raises BadInput naming file and line."""
    try:
        lines = read_small(path, MOST_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"hostfile {path} cannot be read: {error}") from error
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        at = f"hostfile {path}, line {number}"
        slots_field = SLOTS.fullmatch(fields[1]) if len(fields) == 2 else None
        if slots_field is None:
            raise BadInput(f"{at}: {line.strip()!r} is not of the form 'host slots=N' with N from 1 to 9999")
        if not HOST.fullmatch(fields[0]):
            raise BadInput(f"{at}: {fields[0]!r} is not a host name")
        if fields[0] in slots:
            raise BadInput(f"{at}: host {fields[0]} is there twice; give it one line with all its slots")
        slots[fields[0]] = int(slots_field[1])
    if not slots:
        raise BadInput(f"hostfile {path} names no host; write one 'host slots=N' a line")
    local = [is_loopback(host) for host in slots]
    if local[0] and not all(local):
        raise BadInput(
            f"hostfile {path}: the first host, {next(iter(slots))}, must have a name by which the others reach it"
        )
    return slots


def address_of(host: str) -> str:
    """The host without its `user@`."""
    return host.rpartition("@")[2]


def is_loopback(host: str) -> bool:
    return LOOPBACK.fullmatch(address_of(host)) is not None
