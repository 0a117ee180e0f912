"""The student out of a run: one safetensors file with what is needed to rebuild it and where it came from.

Holds the student in memory once, not the optimizer. Left to a later change: streaming, other formats, EMA.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.backbone import Backbone
from fd_scale.models.weights import load_weights
from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.parallel.checkpoint import newest_checkpoint
from fd_scale.parallel.checkpoint_reader import CheckpointReader, damage

PREFIX = "student."
KEY = "fd_scale_student"


def export(run: Path, out: Path, *, step: int | None = None) -> Path:
    """Write the student of the newest whole checkpoint, or of `step`, to `out` in fp32.

    Returns:
        `out`

    Raises:
        BadInput: `run` is no run folder, or holds no such whole checkpoint.
    """
    config_file = run / "config.yaml"
    if not config_file.is_file():
        raise BadInput(f"{run} is not a run folder: it holds no config.yaml; give what `run.folder` named")
    config = yaml.safe_load(config_file.read_text())
    reader = CheckpointReader(_checkpoint(run / "checkpoints", step))
    tensors = {
        name.removeprefix(PREFIX): reader.read(name).view(shape)
        for name, shape in reader.shapes.items()
        if name.startswith(PREFIX)
    }
    origin = {
        "student": config["student"],
        "image_size": config["data"]["view"]["image_size"],
        "step": reader.step,
        **reader.record,
    }
    _write(tensors, out, origin)
    return out


def load_student(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """Rebuild an exported student, in eval mode.

    Returns:
        The backbone, and what the file says of its origin.

    Raises:
        BadInput: not a file that `export` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            origin = json.loads((file.metadata() or {})[KEY])
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(f"{path} is not a student that `fd-scale export` wrote ({error!r})") from None
    student = build_student(StudentConfig(**origin["student"]), origin["image_size"])
    load_weights(student, path)
    return student.eval(), origin


def _checkpoint(folder: Path, step: int | None) -> Path:
    if step is not None:
        path = folder / f"step_{step:08d}"
        problem = damage(path)
        if problem:
            raise BadInput(f"no whole checkpoint of step {step}: {problem}; choose from {_steps(folder)}")
        return path
    newest, damaged = newest_checkpoint(folder)
    if newest is None:
        raise BadInput(f"no whole checkpoint in {folder} {damaged or ''}; let the run save one first")
    return newest


def _steps(folder: Path) -> str:
    return ", ".join(str(int(p.name.removeprefix("step_"))) for p in sorted(folder.glob("step_*"))) or "none"


def _write(tensors: dict[str, Tensor], out: Path, origin: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.partial")
    save_file(tensors, aside, metadata={KEY: json.dumps(origin)})
    aside.chmod(0o644)  # safetensors writes files that only their owner can read; this one is to be passed on
    os.replace(aside, out)
