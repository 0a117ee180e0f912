"""Reading checkpoints without an engine: what is in one, whether it is whole, and any run of any tensor.

Needs no process group and reads only the bytes asked for, so that export streams a model larger than memory.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

MASTER = "master"
"""Key of the fp32 weights among the states of a parameter."""


class CheckpointReader:
    """Random access to a checkpoint that `save_checkpoint` wrote, by any number of ranks."""

    def __init__(self, path: Path):
        self.path = path
        content = json.loads((path / "checkpoint.json").read_text())
        self.step: int = content["step"]
        self.states: list[str] = content["states"]
        self.scalars: dict[str, float] = content["scalars"]
        self.record: dict[str, Any] = content["record"]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files = [safe_open(file, framework="pt") for file in sorted(path.glob("rank_*.safetensors"))]
        self._pieces: dict[str, list[tuple[int, int, Any]]] = {}  # name -> (start, end, file)
        for file in self._files:
            for name, place in json.loads(file.metadata()["fragments"]).items():
                self.shapes[name] = tuple(place["shape"])
                run = (place["start"], place["start"] + place["elements"], file)
                self._pieces.setdefault(name, []).append(run)

    def read(self, name: str, key: str = MASTER, start: int = 0, elements: int | None = None) -> Tensor:
        """(elements,) fp32: a run of the flattened tensor; all of it by default."""
        end = start + (torch.Size(self.shapes[name]).numel() if elements is None else elements)
        value = torch.empty(end - start)
        missing = end - start
        for piece_start, piece_end, file in self._pieces[name]:
            first, last = max(start, piece_start), min(end, piece_end)
            if first < last:
                run = file.get_slice(f"{key}/{name}")[first - piece_start : last - piece_start]
                value[first - start : last - start] = run
                missing -= last - first
        if missing:
            raise ValueError(f"{self.path}: {missing} of {end - start} elements of {key}/{name} are in no rank's file")
        return value


def damage(path: Path) -> str | None:
    """Why the checkpoint must not be used, naming the file; None when it is whole. Hashes every file."""
    try:
        files = json.loads((path / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} has no readable manifest.json"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{file} has {file.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256(file) != expected["sha256"]:
            return f"{file} does not have the sha256 that it was written with"
    return None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
