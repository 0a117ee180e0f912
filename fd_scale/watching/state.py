"""A run as its folder shows it: read, never written, from any host that sees the folder.

What a part of it lacks (a run of an older version has no status.json, one that has just begun no metrics) is None. What
is damaged is refused, so that nobody takes half a file for the truth.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fd_scale.errors import BadInput
from fd_scale.files import parse_json, parse_yaml, read_small
from fd_scale.lease import RENEW_SECONDS
from fd_scale.lease.holder import Holder
from fd_scale.watching.failure import FAILED, LOST
from fd_scale.watching.logs import last_bytes, log_files
from fd_scale.watching.record import FILE, FORMAT, slowest

MOST_STATUS = 2**26
MOST_STARTS = 2**26
TAIL = 2**16
"""Bytes of the end of metrics.jsonl, of which one line is wanted."""
LOG_TAIL = 2**13
FRESH_SECONDS = 3 * RENEW_SECONDS
LOOK_SECONDS = RENEW_SECONDS + 5.0
SAME_END_SECONDS = 120.0
"""Between the failure of one rank and those of its peers."""
STEP_FOLDER = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    step: int
    age_seconds: float | None


@dataclass(frozen=True)
class Slowest:
    rank: int
    host: str
    ratio: float
    """Its own time for a step in that of the median rank."""
    seconds: float


@dataclass(frozen=True)
class Failure:
    line: str
    rank: int
    when: str


@dataclass(frozen=True)
class RunState:
    folder: str
    state: str
    """`running`, `complete`, `stopped` (saved, may be resumed), `ended` (failed or killed), `not begun`."""
    alive: str
    """Why that is known, for people."""
    step: int
    steps: int | None
    values: dict[str, float]
    """Of the last logged step, by the names of metrics.jsonl."""
    age_seconds: float | None
    """Since the last logged step."""
    seconds_left: float | None
    checkpoint: Checkpoint | None
    starts: int
    hosts: dict[str, list[int]]
    slowest: Slowest | None
    failure: Failure | None


def run_state(
    folder: Path, look_seconds: float = LOOK_SECONDS, say: Callable[[str], None] = lambda line: None
) -> RunState:
    """Read a run folder.

    Args:
        look_seconds: how long to look for a sign of life where the clocks of two hosts leave it open.
        say: told of such a wait.

    Raises:
        BadInput: it is no run folder, or a file of it is damaged.
    """
    config = _config(folder)
    status = _status(folder)
    metrics = _last_metrics(folder)
    starts = _starts(folder)
    holder_alive, alive = _life(folder, look_seconds, say)
    steps = status.get("steps") or (config.get("schedule") or {}).get("steps")
    values = {name: value for name, value in metrics.items() if name != "step"}
    step = int(metrics.get("step", 0))
    if status and status["step"] > step:  # its metrics are elsewhere, or cut
        step, values = status["step"], status["values"]
    checkpoint = _checkpoint(folder, config, status)
    if not holder_alive and checkpoint and steps and checkpoint.step >= steps:
        state = "complete"
    elif holder_alive:
        state = "running"
    elif status.get("ended") == "stopped":
        state = "stopped"
    else:
        state = "ended" if starts else "not begun"
    running = state == "running"
    return RunState(
        str(folder),
        state,
        alive,
        step,
        steps,
        values,
        _age(folder / "metrics.jsonl"),
        status.get("seconds_left") if running else None,
        checkpoint,
        starts,
        status.get("hosts", {}),
        _slowest(status),
        _last_failure(folder),
    )


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BadInput(f"run folder {folder} {what}; give the folder that run.folder names")
    file = folder / "config.yaml"
    try:
        config = parse_yaml(read_small(file))
    except FileNotFoundError:
        raise BadInput(
            f"{folder} is no run folder: it holds no config.yaml; give the one that run.folder names"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from None
    if not isinstance(config, dict) or not isinstance(config.get("run") or {}, dict):
        raise _damaged(file, "it has no sections")
    return config


def _status(folder: Path) -> dict[str, Any]:
    """What `record` wrote; empty for a run of an older version."""
    file = folder / FILE
    try:
        status = parse_json(read_small(file, MOST_STATUS))
        if status["format"] != FORMAT:
            return {}
        for name, kind in (("step", int), ("steps", int), ("values", dict), ("hosts", dict), ("own_seconds", list)):
            if not isinstance(status[name], kind):
                raise ValueError(f"{name} is {status[name]!r:.40}")
        ranks = sorted(rank for ranks in status["hosts"].values() for rank in ranks)
        if ranks != list(range(len(ranks))) or not all(isinstance(own, float | int) for own in status["own_seconds"]):
            raise ValueError("its ranks are no ranks")
        if status["checkpoint"] is not None:
            step, when = status["checkpoint"]
            status["checkpoint"] = int(step), float(when)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from None
    return status


def _last_metrics(folder: Path) -> dict[str, Any]:
    """The last whole line; a line that is being written, or that a kill has torn, has no end yet."""
    file = folder / "metrics.jsonl"
    try:
        lines = last_bytes(file, TAIL).split(b"\n")[:-1]
        if not lines:
            return {}
        line = parse_json(lines[-1])
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"its last line is {lines[-1][:40]!r}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from None
    return line


def _starts(folder: Path) -> int:
    file = folder / "environment.json"
    try:
        entries = parse_json(read_small(file, MOST_STARTS))
        if not isinstance(entries, list):
            raise ValueError("it is no list of starts")
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from None
    return len(entries)


def _life(folder: Path, look_seconds: float, say: Callable[[str], None]) -> tuple[bool, str]:
    """Whether a start works here, and why that is known. Reads the lease, and never touches it."""
    file = folder / "lease.json"
    content, age = _read(file), _age(file)
    if content is None or age is None:
        return False, "no start works here"
    holder = Holder.from_bytes(content)
    name = str(holder or "another start")
    if holder and holder.is_dead():
        return False, f"{name} has died"
    if 0 <= age <= FRESH_SECONDS:
        return True, f"{name}, which gave a sign of life {age:.0f} s ago"
    say(f"{folder}: looking for a sign of life of {name}, for up to {look_seconds:.0f} s")
    end = time.monotonic() + look_seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        now = _read(file)
        if now is None:
            return False, "no start works here"
        if now != content:
            return True, f"{name}, which has just given a sign of life"
    return False, f"{name} gives no sign of life"


def _checkpoint(folder: Path, config: dict[str, Any], status: dict[str, Any]) -> Checkpoint | None:
    """The newest. A folder is put in place when it is whole; what lies at a URL is known from the run."""
    place = (config.get("run") or {}).get("checkpoints") or str(folder / "checkpoints")
    steps = []
    if "://" not in place and os.path.isdir(place):
        steps = sorted(int(match[1]) for name in os.listdir(place) if (match := STEP_FOLDER.fullmatch(name)))
    if steps:
        return Checkpoint(steps[-1], _age(Path(place) / f"step_{steps[-1]:08d}"))
    if status.get("checkpoint"):
        step, when = status["checkpoint"]
        return Checkpoint(step, time.time() - when)
    return None


def _slowest(status: dict[str, Any]) -> Slowest | None:
    own = status.get("own_seconds")
    if not own:
        return None
    rank, ratio = slowest(own)
    host = next((host for host, ranks in status["hosts"].items() if rank in ranks), "?")
    return Slowest(rank, host, ratio, own[rank])


def _last_failure(folder: Path) -> Failure | None:
    """The failure with which the last start ended that did: of a rank's own, before those that only lost it."""
    found: list[tuple[float, bool, Failure]] = []
    for rank, file in log_files(folder).items():
        try:
            lines = last_bytes(file, LOG_TAIL).decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            stamp, mark, text = line.partition(f" ERROR {FAILED}")
            when = _seconds(stamp) if mark else None
            if when is not None:
                found.append((when, LOST in text, Failure(f"exit code {text.replace(LOST, '')}", rank, stamp[:19])))
                break
    for file in (folder / "logs").glob("rank_*.stacks"):
        seconds, rank = file.stat().st_mtime, int(re.sub(r"\D", "", file.stem) or 0)
        if file.stat().st_size:
            line = f"exit code 75: no sign of life, ended by the watchdog; its stacks are in {file}"
            when_text = datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
            found.append((seconds, False, Failure(line, rank, when_text)))
    if not found:
        return None
    newest = max(seconds for seconds, _, _ in found)
    same_end = [entry for entry in found if newest - entry[0] < SAME_END_SECONDS]
    return min(same_end, key=lambda entry: (entry[1], -entry[0]))[2]


def _seconds(stamp: str) -> float | None:
    try:
        return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
    except ValueError:
        return None


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _age(path: Path) -> float | None:
    """By the clock of the storage and that of this host, which may differ a little."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return None


def _damaged(file: Path, error: object) -> BadInput:
    return BadInput(f"{file} is damaged ({error}); restore it, or move it away")
