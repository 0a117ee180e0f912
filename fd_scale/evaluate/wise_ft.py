"""WiSE-FT (arXiv 2109.01903): weights between two classifiers, and how accurate each mixture is.

One is usually robust and the other fine-tuned: a linear probe or an early checkpoint, and the end of the run. Both are
exports with a classifier, of one architecture and the same classes, by name, in any order. Each data set is validated
once for each mixture; the curve tells which to keep. Leaves out zero-shot heads made of text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fd_scale.data.classes import classes_of_record
from fd_scale.data.config import EvaluationView
from fd_scale.data.evaluation import EvaluationData
from fd_scale.errors import BadInput
from fd_scale.evaluate.classes import align
from fd_scale.evaluate.validation import validate
from fd_scale.export import PREFIX, load_classifier, write_student
from fd_scale.files import check_target
from fd_scale.models.classifier import Classifier
from fd_scale.models.weights.reading import read_file
from fd_scale.parallel.ranks import Ranks, raise_on_all_ranks, say

HEAD = ("head.weight", "head.bias")
ALPHAS = tuple(step / 10 for step in range(11))


def wise_ft(
    first: Path,
    second: Path,
    validation: Sequence[str],
    ranks: Ranks,
    *,
    alphas: Sequence[float] | None,
    out: Path | None,
    batch: int,
    workers: int,
    view: EvaluationView,
) -> list[dict[str, Any]]:
    """Measure the accuracy of (1 - alpha) * first + alpha * second on every data set. Collective.

    Args:
        first, second: files of `fd-scale export --classifier`.
        validation: folders of labelled shards; the first one chooses.
        alphas: by default `ALPHAS`.
        out: where the mixture that is best on the first data set is written to.

    Returns:
        One entry for each alpha: `alpha`, and the accuracy by data set.

    Raises:
        BadInput: the two do not fit, or the data are missing or of other classes; `out` is no place for a file.
    """
    with raise_on_all_ranks():
        if out is not None and ranks.is_first:
            check_target(out, "--out")
    alphas = ALPHAS if alphas is None else alphas
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise BadInput(f"alphas {list(alphas)}: give numbers from 0 (the first alone) to 1 (the second alone)")
    model, origin = load_classifier(first)
    tensors = read_file(first).tensors, read_file(second).tensors
    other = load_classifier(second)[1]
    for key in ("classes", "norm", "image_size", "pixels"):
        if origin[key] != other[key]:
            raise BadInput(f"{first} and {second} differ in {key}: {origin[key]} and {other[key]}; mix like with like")
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.items()} for part in tensors]
    if shapes[0] != shapes[1]:
        name = next(iter(dict(shapes[0].items() ^ shapes[1].items())))
        raise BadInput(f"{first} and {second} are different models, first in {name}; mix like with like")
    rows, classes, lines = align(classes_of_record(origin, str(first)), classes_of_record(other, str(second)))
    tensors[1].update({name: tensors[1][name][rows] for name in HEAD})
    data = [EvaluationData(source, origin["image_size"], view, workers, classes) for source in validation]
    for line in [*lines, *(line for part in data for line in part.lines)]:
        say(ranks, line)
    model.to(ranks.device)
    curve = []
    for alpha in alphas:
        _mix(model, *tensors, alpha)
        statistics = origin["pixels"]["mean"], origin["pixels"]["std"]
        found = {part.source: validate(model, part, statistics, batch, ranks)["accuracy"] for part in data}
        curve.append({"alpha": alpha, **found})
    if out is not None and ranks.is_first:
        best = max(curve, key=lambda entry: entry[validation[0]])["alpha"]
        note = {"first": str(first), "second": str(second), "alpha": best}
        plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors[0].items()}
        write_student(
            out,
            plan,
            {**other, **classes.record(), "wise_ft": note},
            lambda name: _between(tensors[0][name], tensors[1][name], best),
        )
    return curve


def _mix(model: Classifier, first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], alpha: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = name.removeprefix(PREFIX)
            parameter.copy_(_between(first[name], second[name], alpha))


def _between(first: torch.Tensor, second: torch.Tensor, alpha: float) -> torch.Tensor:
    return torch.lerp(first.float(), second.float(), alpha).to(first.dtype)
