"""The classifier that a file holds beside its backbone: fine-tuning that starts where another one ended.

Published order of the rungs: ImageNet-22K, then ImageNet-1K, whose classes are among those of 22K. Names are timm's,
Microsoft's and those of our exports: `fc_norm`, `head`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.files import parse_json, read_small
from fd_scale.models.classifier import Norm
from fd_scale.models.weights.formats import bare_names
from fd_scale.models.weights.reading import read_file
from fd_scale.models.weights.sealed import STUDENT_KEY

NORM = ("fc_norm.weight", "fc_norm.bias")
HEAD = ("head.weight", "head.bias")
NEW = -1
MOST_ROWS = 2**26
"""Bytes of a file of rows: one number a line."""

ByName = Callable[[dict[str, Any], int], list[int] | None]


def kept_head(
    source: str,
    classes: int,
    norm: Norm,
    rows_file: str | None,
    by_name: ByName = lambda origin, before: None,
    key: str | None = None,
) -> dict[str, Tensor]:
    """Read norm behind the pooling and head from a file, by the names of `Classifier`.

    Args:
        source: of `fd-scale export --classifier`, or a published file with a head.
        classes: K, of the new head.
        norm: of the new classifier.
        rows_file: line k names the class of the file's head from which class k starts; -1 for none, which begins at 0.
        by_name: without such a file, says the same by the names of the classes, from what an export says of its origin
            (empty for any other file) and how many classes its head has; None where numbers agree.
        key: of the tensors in the file, see `read_file`.

    Returns:
        `head.weight` (K, C), `head.bias` (K,), and those of `fc_norm`, where the classifier has it.

    Raises:
        BadInput: no head in the file, one of other classes, or of a classifier with another norm.
    """
    file = read_file(source, key)
    found = {short: file.tensors[name] for name, short in bare_names(file.tensors).items()}
    absent = [name for name in HEAD if name not in found]
    if absent:
        raise BadInput(
            f"finetune.head=kept, but {source} holds no {absent[0]}; write it with `fd-scale export RUN OUT "
            f"--classifier`, or set finetune.head=fresh"
        )
    with_norm = all(name in found for name in NORM)
    if with_norm != (norm == "fresh"):
        raise BadInput(
            f"finetune.head=kept, but the classifier in {source} has {'a' if with_norm else 'no'} norm behind the "
            f"pooling (fc_norm); set finetune.norm={'fresh' if with_norm else 'kept'}, or finetune.head=fresh"
        )
    weight, bias = (found[name].float() for name in HEAD)
    rows: list[int] | None
    if rows_file is not None:
        rows = _read_rows(Path(rows_file), classes, len(weight))
    else:
        rows = by_name(parse_json(file.metadata.get(STUDENT_KEY, "{}")), len(weight))
    if rows is not None:
        from_row = torch.tensor(rows)  # (K,)
        known = (from_row != NEW).float()
        weight, bias = weight[from_row.clamp(min=0)] * known[:, None], bias[from_row.clamp(min=0)] * known
    elif len(weight) != classes:
        raise BadInput(
            f"finetune.head=kept, but the classifier in {source} has {len(weight)} classes and the new one {classes}; "
            f"say in finetune.head_classes which goes on from which, or set finetune.head=fresh"
        )
    return {"head.weight": weight, "head.bias": bias, **{name: found[name] for name in NORM if with_norm}}


def _read_rows(path: Path, classes: int, before: int) -> list[int]:
    try:
        lines = read_small(path, MOST_ROWS).split()
    except (OSError, ValueError) as error:
        raise BadInput(f"finetune.head_classes={path} cannot be read: {error}") from None
    if len(lines) != classes:
        raise BadInput(f"finetune.head_classes={path} has {len(lines)} lines for {classes} classes; give one for each")
    for number, line in enumerate(lines, start=1):
        if not line.removeprefix("-").isdigit() or not NEW <= int(line) < before:
            raise BadInput(
                f"{path}:{number}: {line} is no class of the file's head, which has 0 to {before - 1}; -1 stands for "
                f"none"
            )
    return [int(line) for line in lines]
