"""The disturbed run and the undisturbed one: what each holds, and whether they hold the same."""

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fd_scale.parallel.checkpoint.reader import CheckpointReader, damage, newest_whole
from fd_scale.parallel.checkpoint.storage import LocalStorage


class Broken(Exception):
    """Error that says which promise was not kept."""


def require(kept: bool, line: str) -> None:
    if not kept:
        raise Broken(line)


@dataclass
class Chaos:
    """State of a chaos run: the disturbed run, the undisturbed one beside it, and what happened so far."""

    arguments: list[str]
    folder: Path
    reference: Path
    random: random.Random
    began: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def storage(self) -> LocalStorage:
        return LocalStorage(self.folder / "checkpoints")

    def whole(self) -> int:
        """Find the step of the newest whole checkpoint, 0 for none."""
        return newest_whole(self.storage)[0] or 0

    def whole_since(self, first: int) -> list[int]:
        return [step for step in self.storage.steps() if step >= first and damage(self.storage, step) is None]

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {line}", flush=True)


def half_written(chaos: Chaos, since: float) -> bool:
    """Whether a checkpoint begun after `since` is not in place."""
    return written_since(chaos.storage.folder.glob(".step_*.partial"), since) > 0


def written_since(folders: Iterable[Path], since: float) -> int:
    count = 0
    for path in folders:
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            count += path.stat().st_mtime >= since
    return count


def compare(chaos: Chaos, step: int) -> None:
    """Check that both runs hold the same bits at `step`, and logged the same losses up to there."""
    ours, theirs = (
        CheckpointReader(LocalStorage(folder / "checkpoints"), step) for folder in (chaos.folder, chaos.reference)
    )
    require(ours.keys == theirs.keys, f"step {step} holds {ours.keys} beside {theirs.keys}")
    for key in ours.keys:
        require(ours.names(key) == theirs.names(key), f"{key} of other parameters at step {step}")
        for name in ours.names(key):
            same = torch.equal(ours.read(name, key).view(torch.uint8), theirs.read(name, key).view(torch.uint8))
            require(same, f"{key} of {name} differs at step {step}")
    require(ours.scalars == theirs.scalars, f"step counts differ at step {step}")
    require(losses(chaos.folder) == losses(chaos.reference), f"losses differ up to step {step}")


def losses(folder: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries]
