"""Published weights into a student: read without running code, recognised, fitted, reported, or refused.

`load_weights` fills an unsharded model. A sharded one is filled parameter by parameter from the tensors of
`fitted_weights`, for which an outline on the meta device is enough.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.from_timm import TimmStudent
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.weights.fitting import Fitted, fit
from fd_scale.models.weights.places import check_gaps
from fd_scale.models.weights.reading import WeightsFile, read_file
from fd_scale.models.weights.report import LoadReport
from fd_scale.models.weights.timm_fitting import fitted_timm
from fd_scale.models.weights.timm_source import timm_weights
from fd_scale.models.weights.windows import KEY, check_windows, tell_windows

__all__ = [
    "KEY",
    "Fitted",
    "LoadReport",
    "WeightsFile",
    "fit",
    "fitted_weights",
    "load_weights",
    "read_file",
    "read_weights",
]


def read_weights(source: str | Path, key: str | None = None) -> WeightsFile:
    """`source`: a path, or `timm:NAME`. `key`: see `read_file`. Raises BadInput, Retry."""
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
    """The weights of a source of `read_weights` for a student, which may be on the meta device.

    Args:
        neutral: see `fit`.
        whole: not even the final norm may be missing.
        image_size: of square images that the model is for, where nobody will tell it the windows of the file
            (`load_weights` does): then they must be those in use at that size, or those that it was built with.
        key: of the tensors in a file, see `read_file`.

    Raises:
        BadInput: the source cannot be read, does not fit, holds too little, or its windows are unknown or not agreed.
    """
    if isinstance(model, TimmStudent):
        return fitted_timm(model, source.source if isinstance(source, WeightsFile) else str(source), key)
    file = source if isinstance(source, WeightsFile) else read_weights(source, key)
    try:
        fitted = fit(model, file.tensors, neutral=neutral, trained_windows=file.trained_windows)
        check_gaps(model, fitted.report, whole=whole)
        if isinstance(model, SwinV2):
            check_windows(model, fitted.trained_windows, image_size)
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
    """Fill an unsharded student, in the model's types. What the file lacks stays as it is; a SwinV2 is told the windows
    of its position bias. Raises as `fitted_weights`, and then leaves the model untouched.
    """
    fitted = fitted_weights(model, source, neutral=neutral, whole=whole, key=key)
    with torch.no_grad():
        for name, tensor in fitted.tensors.items():
            model.get_parameter(name).copy_(tensor)
    if isinstance(model, SwinV2) and fitted.trained_windows:
        tell_windows(model, fitted.trained_windows)
    return fitted.report
