"""Files that say what they are and carry the hashes of it: exports, converted weights, staged teachers.

Their metadata hold one JSON under a key of this project. It contains the SHA-256 of the tensors and that of all else
that it says (windows, pixel statistics, classes). Each hash is checked when its content is read. Files of earlier
versions, and those of other programs, have none and are read as they are.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.files import parse_json

TEACHER_KEY = "fd_scale_teacher"
STUDENT_KEY = "fd_scale_student"
SHA256 = "sha256"
OF_DESCRIPTION = "sha256_of_description"
PENDING = "?" * 64
"""Stands for the hash of tensors that are still to be written."""


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, types, shapes and bytes with SHA-256, in the order given."""
    running = hashlib.sha256()
    for name, tensor in tensors:
        running.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        running.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return running.hexdigest()


def sealed(stated: Mapping[str, Any], of_tensors: str = PENDING) -> str:
    """Write a description with its hashes, as JSON."""
    content = {key: value for key, value in stated.items() if key not in (SHA256, OF_DESCRIPTION)}
    return json.dumps({**content, SHA256: of_tensors, OF_DESCRIPTION: _of_description(content)})


def check_description(stated: Mapping[str, Any], path: str | Path) -> None:
    """Check that a description is what was written, where it says what that was.

    Raises:
        BadInput: it is not.
    """
    if OF_DESCRIPTION in stated and stated[OF_DESCRIPTION] != _of_description(stated):
        raise _differs(path, "description")


def check_content(metadata: Mapping[str, str], tensors: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Check that a file is still what was written, where it says what that was.

    Args:
        tensors: all of the file, sorted by their names.

    Raises:
        BadInput: tensors or description differ.
    """
    key = next((key for key in (STUDENT_KEY, TEACHER_KEY) if key in metadata), None)
    if key is None:
        return
    try:
        stated = dict(parse_json(metadata[key]))
    except (ValueError, TypeError):
        raise BadInput(
            f"{path}: its metadata {key!r} is not what an export says of itself; export, convert or fetch it again"
        ) from None
    check_description(stated, path)
    if SHA256 in stated and stated[SHA256] != digest(tensors):
        raise _differs(path, "tensors")


def check_file(path: Path) -> None:
    """Check a safetensors file as `check_content` does, one tensor in memory at a time.

    Raises as that does, and what the library raises where the file is none.
    """
    with safe_open(path, framework="pt") as file:
        tensors = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
        check_content(file.metadata() or {}, tensors, path)


def _of_description(stated: Mapping[str, Any]) -> str:
    content = {key: value for key, value in stated.items() if key not in (SHA256, OF_DESCRIPTION)}
    plain = json.loads(json.dumps(content))  # as it is read again: lists for tuples, texts for numbers as keys
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _differs(path: str | Path, part: str) -> BadInput:
    return BadInput(
        f"{path} does not hold what was written (sha256 of its {part}); copy it again, or export, convert or fetch it "
        f"anew"
    )
