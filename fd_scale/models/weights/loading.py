"""Weights of a file, or of timm, into a student: the functions that the rest of the library calls.

`load_weights` fills an unsharded model. A sharded one is filled parameter by parameter from the tensors of
`fitted_weights`, for which an outline on the meta device is enough.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.files import parse_json
from fd_scale.models.families import family_of_model, published_families, published_weights
from fd_scale.models.weights.fitting import fit
from fd_scale.models.weights.gaps import check_gaps
from fd_scale.models.weights.parts import Fitted, Windows
from fd_scale.models.weights.published import PublishedWeights
from fd_scale.models.weights.reading import WeightsFile, read_file
from fd_scale.models.weights.report import LoadReport
from fd_scale.models.weights.sealed import STUDENT_KEY
from fd_scale.models.weights.timm_source import timm_weights


def read_weights(source: str | Path, key: str | None = None) -> WeightsFile:
    """Read the weights of a source, which is a path or `timm:NAME`.

    `key`: see `read_file`. Raises BadInput, Retry.
    """
    kind, _, name = str(source).partition(":")
    return timm_weights(name) if kind == "timm" and name else read_file(source, key)


def fitted_weights(
    model: nn.Module,
    source: str | Path | WeightsFile,
    *,
    neutral: bool = False,
    whole: bool = False,
    image_size: int | None = None,
    key: str | None = None,
) -> Fitted:
    """Fit the weights of a source of `read_weights` to a student, which may be on the meta device.

    Args:
        neutral: see `fit`.
        whole: not even the final norm may be missing.
        image_size: of square images that the model is for, where nobody will tell it the windows of the file
            (`load_weights` does): then they must be those in use at that size, or those that it was built with.
        key: of the tensors in a file, see `read_file`.

    Raises:
        BadInput: the source cannot be read, does not fit, holds too little, or its windows are unknown or not agreed.
    """
    family = family_of_model(model)
    if family is not None and not isinstance(family.weights, PublishedWeights):
        return family.weights(model, source.source if isinstance(source, WeightsFile) else str(source), key)
    file = source if isinstance(source, WeightsFile) else read_weights(source, key)
    try:
        trained = file.trained_windows or _windows_of_export(file.metadata)
        fitted = fit(model, file.tensors, neutral=neutral, trained_windows=trained)
        check_gaps(model, fitted.report, whole=whole)
        windows = published_weights(model).windows
        if windows is not None:
            windows.check(model, fitted.trained_windows, image_size)
    except BadInput as error:
        raise BadInput(f"weights {file.source}: {error}") from None
    return replace(fitted, report=replace(fitted.report, origin=file.described()))


def load_weights(
    model: nn.Module,
    source: str | Path | WeightsFile,
    *,
    neutral: bool = False,
    whole: bool = False,
    key: str | None = None,
) -> LoadReport:
    """Fill an unsharded student, in the model's types.

    What the file lacks stays as it is; a model with windows gets those of its position bias. Raises as
    `fitted_weights`, and then leaves the model untouched.
    """
    fitted = fitted_weights(model, source, neutral=neutral, whole=whole, key=key)
    with torch.no_grad():
        for name, tensor in fitted.tensors.items():
            model.get_parameter(name).copy_(tensor)
    if fitted.trained_windows and (windows := published_weights(model).windows) is not None:
        windows.tell(model, fitted.trained_windows)
    return fitted.report


def _windows_of_export(metadata: Mapping[str, str]) -> Windows | None:
    """By what an export says of itself; None for any other file, and for a student of a family without windows."""
    if STUDENT_KEY not in metadata:
        return None
    try:
        origin = parse_json(metadata[STUDENT_KEY])
        name = origin["student"]["name"]
        rules = next((weights.windows for family, weights in published_families() if family.has(name)), None)
        windows = rules.of_export(origin) if rules is not None else None
        if windows is not None and not all(isinstance(window, int) and window > 0 for window in windows):
            raise ValueError(f"windows {windows}")
        return windows
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"its metadata {STUDENT_KEY!r} is not what an export says of itself ({error!r}); export it again"
        ) from None
