"""A run folder that explains itself, without secrets (`fd_scale.redaction`).

config.yaml          the resolved configuration; says which run this is
environment.json     versions, git revision, command line, ranks; one entry for every start
status.json          how far it is, for `fd-scale status`; see `fd_scale.watching.record`
metrics.jsonl        the truth about the run; one line for every logged step
tensorboard/         the same as events
lease.json           while a start works here: which process, see `fd_scale.lease`
checkpoints/         step_XXXXXXXX/
logs/                rank_XXXXX.log; rank_XXXXX.stacks where the watchdog ended a start

Configuration, environment and metrics are as durable as checkpoints: written whole, and metrics are on the disk before
the checkpoint of their step counts. One of them that is damaged ends a start with a line, and is left for people to
look at. status.json is written anew by every start.
"""

import contextlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fd_scale.errors import BadInput
from fd_scale.files import check_folder, make_folder, parse_json, parse_yaml, read_small, write_whole
from fd_scale.output import RedactingFormatter
from fd_scale.parallel.checkpoint.reader import CheckpointReader, Removed
from fd_scale.parallel.checkpoint.storage import CHECKPOINTS, LocalStorage, open_storage
from fd_scale.parallel.ranks import Ranks
from fd_scale.parallel.run_lease import LEASE
from fd_scale.redaction import redacted_words
from fd_scale.train.config import RunConfig

log = logging.getLogger("fd_scale")

MOST_ENVIRONMENT = 2**26
"""Bytes of environment.json, which grows by some 600 with every start."""
Differences = Callable[[dict[str, Any], dict[str, Any]], list[str]]
"""Two resolved configurations -> what they do not agree in, of the keys that make a run another one."""
PACKAGES = ("fd-scale", "torch", "torchvision", "deepspeed", "timm", "webdataset", "numpy", "pillow", "safetensors")


class RunFolder:
    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / CHECKPOINTS
        self.metrics = folder / "metrics.jsonl"
        self.config = folder / "config.yaml"
        self.environment = folder / "environment.json"
        self.logs = folder / "logs"

    def check(self, resolved: dict[str, Any], differences: Differences) -> None:
        """Refuse a folder that belongs to another run, or to something else.

        Args:
            differences: see `Differences`.

        Raises:
            BadInput: naming the first keys that differ, or what is damaged; or nothing can be written there.
        """
        check_folder(self.folder, "run.folder")
        for file in (self.config, self.environment, self.metrics):
            if file.is_dir():
                raise BadInput(f"{file} is a folder, where a run has a file; move it away, or give another run.folder")
        if not self.folder.exists():
            return
        self._starts()
        if not self.config.exists():
            if LocalStorage(self.checkpoints).steps():
                return  # they say which run this is
            if any(p.name != "logs" and not p.name.startswith(LEASE) for p in self.folder.iterdir()):
                raise BadInput(f"run.folder {self.folder} holds files but no config.yaml of a run; give a new folder")
            return
        if not self.metrics.exists() or not self.metrics.stat().st_size:
            return  # a start that came to nothing; the next may be another
        differing = differences(self._stored(), resolved)
        if differing:
            raise BadInput(
                f"run.folder {self.folder} belongs to another run ({'; '.join(differing[:3])}); give another run.folder"
            )

    def create(self, resolved: dict[str, Any], ranks: Ranks) -> None:
        make_folder(self.folder)
        write_whole(self.config, yaml.safe_dump(resolved, sort_keys=False))
        write_whole(self.environment, json.dumps([*self._starts(), environment(ranks)], indent=1))

    def starts(self) -> int:
        """How many there were, with this one once `create` has been called. Raises BadInput: that is damaged."""
        return len(self._starts())

    def _stored(self) -> dict[str, Any]:
        """What config.yaml says. Raises BadInput: it is damaged."""
        try:
            stored = parse_yaml(read_small(self.config))
        except (OSError, ValueError) as error:
            raise self._damaged(self.config, str(error), "the newest checkpoint then says which run this is") from None
        if not isinstance(stored, dict):
            raise self._damaged(self.config, "no sections", "the newest checkpoint then says which run this is")
        return stored

    def _starts(self) -> list[Any]:
        """What environment.json says. Raises BadInput: it is damaged."""
        try:
            entries = parse_json(read_small(self.environment, MOST_ENVIRONMENT))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise self._damaged(self.environment, str(error), "a new one is begun, and nothing else is lost") from None
        if not isinstance(entries, list):
            raise self._damaged(self.environment, "no list of starts", "a new one is begun, and nothing else is lost")
        return entries

    def _damaged(self, file: Path, reason: str, then: str) -> BadInput:
        return BadInput(f"{file} is damaged ({reason}); restore it, or move it away: {then}")

    def open_log(self, rank: int) -> None:
        """Send this rank's log records to its own file."""
        self.logs.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.logs / f"rank_{rank:05d}.log")
        handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)

    def stacks(self, rank: int) -> Path:
        """File of this rank's watchdog."""
        return self.logs / f"rank_{rank:05d}.stacks"

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a killed run computed after its last checkpoint; they are computed again.

        Raises:
            BadInput: a line is damaged that is not what a kill leaves, the end of the file: nobody would compute it
                again.
        """
        if not self.metrics.exists():
            return
        lines = self.metrics.read_bytes().split(b"\n")
        steps = [_step_of(line) for line in lines]
        kept = [number for number, found in enumerate(steps) if found is not None and found <= step]
        for number in range(kept[-1] if kept else 0):
            if steps[number] is None and lines[number].strip():
                raise BadInput(
                    f"{self.metrics} line {number + 1} is damaged ({lines[number][:40]!r}); restore the file, or "
                    f"remove that line"
                )
        content = b"".join(lines[number] + b"\n" for number in kept)
        write_whole(self.metrics, content)


def stored_config(config: RunConfig) -> dict[str, Any] | None:
    """The configuration that a run was stored with, in its folder or its newest checkpoint; None for a new one.

    What is damaged counts as not there: resuming names it.

    Raises:
        BadInput: there can be no such folder.
    """
    check_folder(config.folder, "run.folder")
    folder = RunFolder(Path(config.folder))
    if folder.config.is_file() and folder.metrics.is_file() and folder.metrics.stat().st_size:
        with contextlib.suppress(OSError, ValueError):
            stored = parse_yaml(read_small(folder.config))
            return stored if isinstance(stored, dict) else None
    storage = open_storage(config.checkpoints or folder.checkpoints)
    for step in reversed(storage.steps()):
        with contextlib.suppress(BadInput, Removed, OSError, KeyError, ValueError):
            return CheckpointReader(storage, step).record["config"]
    return None


def environment(ranks: Ranks) -> dict[str, Any]:
    """What this start ran on and with."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redacted_words(sys.argv),
        "world": ranks.world,
        "device": str(ranks.device.type),
        "host": platform.node(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git": _git_revision(),
    }


def _git_revision() -> dict[str, Any] | None:
    """Of the source this package is imported from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"revision": revision.stdout.strip(), "changed": bool(changes.stdout.strip())}


def _step_of(line: bytes) -> int | None:
    """None for what is no line of metrics, such as the torn last one of a killed run."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
