"""Weights for a student that is a timm model: timm converts them, and they fill it exactly or are refused."""

from pathlib import Path

from fd_scale.errors import BadInput
from fd_scale.models.config import TIMM_PREFIX
from fd_scale.models.from_timm import TimmStudent
from fd_scale.models.weights.parts import Fitted
from fd_scale.models.weights.report import LoadReport
from fd_scale.models.weights.timm_loading import load_from_file, load_from_hub


def fitted_timm(student: TimmStudent, source: str, key: str | None = None) -> Fitted:
    """Fit the tensors of a file, or of `timm:NAME` with a tag of the student's own architecture, to a timm student.

    Args:
        key: of the tensors in a file, see `read_file`.

    Raises:
        BadInput: they cannot be read, or do not fill the model exactly.
    """
    if source.startswith(TIMM_PREFIX):
        name = source.removeprefix(TIMM_PREFIX)
        if name.split(".")[0] != student.name.split(".")[0]:
            raise BadInput(f"weights {source} are not of the student timm:{student.name}; write a tag of that model")
        model, where = load_from_hub(name, student.arguments), ""
    else:
        model, where = load_from_file(student.name, student.arguments, {}, Path(source).expanduser(), key)
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    names = [name for name, _ in student.named_parameters()]
    report = LoadReport(
        format=f"timm's {student.name}",
        matched=tuple(names),
        resized={},
        neutral=(),
        missing=(),
        ignored={name: "heads" for name in found if name not in names},
        notes=("position embeddings and tables resampled where the size differs",),
        share=1.0,
        origin=source + where,
    )
    return Fitted({name: found[name] for name in names}, report, None)
