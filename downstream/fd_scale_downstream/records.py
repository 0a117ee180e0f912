"""Values that mmengine and our checkpoints exchange: plain ones, and files of weights without pickle."""

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fd_scale
from fd_scale.errors import BadInput


def plain(value: Any) -> Any:
    """Convert a value to what JSON can hold. What has no such form (logged buffers, functions) is left out."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if _has_form(item)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value if _has_form(item)]
    if isinstance(value, numbers.Number) and not isinstance(value, bool | int | float):
        return value.item() if hasattr(value, "item") else float(value)  # type: ignore[arg-type]
    return value


def _has_form(value: Any) -> bool:
    return value is None or isinstance(value, str | numbers.Number | Mapping | list | tuple)


def shipped(path: str) -> Path:
    """Path of a user's file, or of the shipped one by the same name, in the checkout or the wheel."""
    package = Path(fd_scale.__file__).resolve().parent
    candidates = (Path(path), package.parent / path, package / "_shipped" / path)
    return next((found for found in candidates if found.exists()), Path(path))


def read_state_dict(path: str) -> dict[str, Any]:
    """Read an mmengine checkpoint that holds nothing but tensors and plain values, such as `export` writes.

    Raises:
        BadInput: no such file, or one that only unpickling would read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"no checkpoint at {path}; `python -m fd_scale_downstream export` writes one") from None
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"{path} cannot be read without unpickling ({line}); give a file that export wrote") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise BadInput(f"{path} holds no `state_dict`; give a file that `python -m fd_scale_downstream export` wrote")
    return content
