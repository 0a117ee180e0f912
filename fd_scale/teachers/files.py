"""Files that say what they are: a safetensors whose metadata name the architecture, the statistics and the licence.

Three kinds: staged by `fd-scale fetch-teacher`, made by a script, or a student that `fd-scale export` wrote. What was
staged or exported carries hashes, which are checked (`fd_scale.models.weights.sealed`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.files import parse_json, whole_file
from fd_scale.lease import held
from fd_scale.models.weights.sealed import STUDENT_KEY, check_description, digest, sealed
from fd_scale.models.weights.sealed import TEACHER_KEY as METADATA_KEY
from fd_scale.redaction import redacted
from fd_scale.teachers.teacher import Facts

MOST = 1000.0
"""Of pixel statistics, in any of the units in use."""


@dataclass(frozen=True)
class Described:
    """A file's own description; one of `timm_model`, `own_model` and `student` says how to build it.

    settings: what overrides timm's facts of the model's published weights.
    windows: of an own SwinV2, in which its position bias was trained.
    student: what an export says of its student and origin.
    """

    facts: Facts
    timm_model: str = ""
    timm_kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    own_model: str = ""
    windows: tuple[int, int, int, int] | None = None
    student: dict[str, Any] | None = None


def describe(path: Path) -> Described:
    """Read what a file says it is. Its tensors are checked when they are read.

    Raises:
        BadInput: it does not say what it is, or says something else than was written.
    """
    if not path.is_file():
        raise BadInput(f"no file {path.absolute()}")
    with _understood(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if STUDENT_KEY in metadata:
            origin = parse_json(metadata[STUDENT_KEY])
            check_description(origin, path)
            return _of_export(origin, path)
        stated = parse_json(metadata[METADATA_KEY])
        check_description(stated, path)
        return _of_teacher(stated, path)


def write(path: Path, tensors: dict[str, Tensor], stated: dict[str, Any]) -> str:
    """Write a file with its description, put in place whole. Returns the hash of its tensors.

    Raises:
        BadInput: it is there already.
        Retry: another start writes it.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    sha256 = digest(whole.items())
    with held(path) as lease:
        refuse_existing(path)  # again: another start may have written it while this one read
        with whole_file(path, lease) as file:
            save_file(whole, file.name, metadata={METADATA_KEY: sealed(redacted(stated), sha256)})
    return sha256


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise BadInput(f"{path} exists; remove it or choose another name")


def _of_teacher(stated: dict[str, Any], path: Path) -> Described:
    settings: dict[str, Any] = {key: _statistics(stated[key], key, path) for key in ("mean", "std") if key in stated}
    kwargs = dict(stated.get("timm_kwargs", {}))
    if "img_size" in kwargs:  # the grid that position embeddings are resampled from
        settings["input_size"] = (3, kwargs["img_size"], kwargs["img_size"])
    own_model = str(stated.get("own_model", ""))
    return Described(
        facts=Facts(
            settings.get("mean", ()),
            settings.get("std", ()),
            stated.get("licence", "not stated"),
            stated.get("description", path.name),
        ),
        timm_model="" if own_model else stated["timm_model"],
        timm_kwargs=kwargs,
        settings=settings,
        own_model=own_model,
        windows=tuple(stated["windows"]) if stated.get("windows") else None,
    )


def _of_export(origin: dict[str, Any], path: Path) -> Described:
    pixels, teacher = origin["pixels"], origin.get("teacher")
    licence = teacher["licence"] if isinstance(teacher, dict) and "licence" in teacher else "not stated"
    return Described(
        Facts(
            _statistics(pixels["mean"], "mean", path),
            _statistics(pixels["std"], "std", path),
            f"distilled; its teacher's: {licence}",
            path.name,
        ),
        student=origin,
    )


def _statistics(values: Any, key: str, path: Path) -> tuple[float, ...]:
    """Of the three colours. Raises BadInput: they are none."""
    numbers = [value for value in values if isinstance(value, int | float) and abs(value) < MOST]
    if len(numbers) != 3 or len(values) != 3 or (key == "std" and min(numbers) <= 0):
        raise BadInput(f"{path}: {key} = {values} of its pixels; three numbers below 1000 belong there, of std above 0")
    return tuple(numbers)


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{path} is no safetensors that names its architecture (metadata {METADATA_KEY!r} with timm_model and "
            "timm_kwargs); for any other checkpoint write timm:NAME@PATH"
        ) from error
