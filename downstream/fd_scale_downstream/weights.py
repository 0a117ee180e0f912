"""Published weights and exports into a backbone, by `fd_scale.models.weights`, with a report for the log."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fd_scale.errors import BadInput
from fd_scale.files import parse_json
from fd_scale.models.backbone import Backbone
from fd_scale.models.weights.loading import fitted_weights
from fd_scale.models.weights.sealed import STUDENT_KEY, check_description


def export_origin(path: str | Path | None) -> dict[str, Any] | None:
    """Read what an export says of its origin: the student's configuration, its image size. None for other sources."""
    if path is None or str(path).startswith("timm:"):
        return None
    if not Path(path).is_file():
        raise BadInput(f"no weights file at {path}; give its path in the config's `backbone.weights`")
    try:
        with safe_open(path, framework="pt") as file:
            content = (file.metadata() or {}).get(STUDENT_KEY)
    except (OSError, SafetensorError):
        return None
    try:
        origin = None if content is None else parse_json(content)
    except ValueError as error:
        raise BadInput(f"{path}: its metadata {STUDENT_KEY!r} is damaged ({error}); export it again") from None
    check_description(origin or {}, path)
    return origin


def load(backbone: Backbone, source: str | Path, *, neutral: bool = False, key: str | None = None) -> str:
    """Fill the parameters that the source has and leave the others as they are.

    Args:
        key: of the tensors in a file, see `fd_scale.models.weights.reading.read_file`.

    Returns:
        The report, for the log.

    Raises:
        BadInput: it does not fit the backbone, or holds too little of it; or a model with windows was not given those
            that its position bias was trained in. The source's own are not taken over, because the checkpoints of the
            detector or segmentor would not tell them.
    """
    fitted = fitted_weights(backbone, source, neutral=neutral, key=key)
    if fitted.trained_windows is not None and backbone.told_windows is None:
        raise BadInput(
            f"weights {source}: their position bias was trained in the windows {fitted.trained_windows}; set "
            f"pretrained_window={fitted.trained_windows} in the config's `backbone`"
        )
    with torch.no_grad():
        for name, tensor in fitted.tensors.items():
            backbone.get_parameter(name).copy_(tensor)
    return f"weights {fitted.report}"
