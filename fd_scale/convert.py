"""Conversion of published weights to a file like an export's: our names, safetensors, student and origin.

`student.weights`, `load_student` and the backbones of MMSegmentation and MMDetection read it. Left out: changing the
type or the size of tensors.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch

from fd_scale.errors import BadInput
from fd_scale.export import write_student
from fd_scale.files import check_target, sha256_of
from fd_scale.models.weights.loading import fitted_weights, read_weights
from fd_scale.models.weights.report import LoadReport
from fd_scale.models.weights.sealed import STUDENT_KEY
from fd_scale.models.weights.student import student_of
from fd_scale.models.zoo import build_student

STAGES = 4


def convert(
    source: str | Path,
    out: Path,
    *,
    student: str | None,
    image_size: int | None,
    window: int | None,
    pretrained_window: tuple[int, ...] | None,
    key: str | None,
    neutral: bool,
    licence: str | None,
) -> LoadReport:
    """Write the weights of `source`, a path or `timm:NAME`, to `out`. Holds them in memory once.

    Args:
        student: name of the student that they must be; None: the one of their sizes.
        image_size, window, pretrained_window: where the file does not say them. The window is free to choose, the
            student's for None; the others are facts.
        key: of the tensors in the file, where it holds several models.
        neutral: fill what the file lacks with the values at which it does nothing.
        licence: of the weights, for the record.

    Returns:
        What became of every tensor.

    Raises:
        BadInput: the file cannot be read, is no student of this package, or lacks something; no file can be written to
            `out`.
    """
    if out.suffix != ".safetensors":
        raise BadInput(
            f"{out}: converted weights are a safetensors file; name it {out.with_suffix('.safetensors').name}"
        )
    check_target(out, "OUT")
    file = read_weights(source, key)
    if STUDENT_KEY in file.metadata:
        raise BadInput(f"weights {source} are an export, or converted already: take them as they are")
    try:
        config, found_size = student_of(file)
    except BadInput as error:
        raise BadInput(f"weights {source}: {error}") from None
    if student is not None and student != config.name:
        raise BadInput(f"weights {source} are those of a {config.name}, not of a {student}; leave out --student")
    size = image_size or found_size
    if size is None:
        raise BadInput(f"weights {source} do not say for which images they were trained; give --image-size")
    if pretrained_window is not None:
        if len(pretrained_window) != STAGES:
            raise BadInput(f"--pretrained-window {pretrained_window} is not one for each of {STAGES} stages")
        config = replace(config, pretrained_window=pretrained_window)  # type: ignore[arg-type]
    config = replace(config, window=window or config.window)
    with torch.device("meta"):
        outline = build_student(config, size)
    fitted = fitted_weights(outline, file, neutral=neutral, whole=True)
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in fitted.tensors.items()}
    origin = {"student": asdict(config), "image_size": size, "converted": _provenance(source, fitted.report, licence)}
    write_student(out, plan, origin, lambda name: fitted.tensors[name])
    return fitted.report


def _provenance(source: str | Path, report: LoadReport, licence: str | None) -> dict[str, Any]:
    """Where the weights come from and what was done to them; part of the file."""
    facts = {"from": str(source), "format": report.format, "licence": licence or "not stated", "report": str(report)}
    if str(source).startswith("timm:"):
        return {**facts, "timm": timm.__version__}
    return {**facts, "sha256": sha256_of(source)}
