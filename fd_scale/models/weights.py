"""Weights from a file into a backbone of the same names and shapes, all or nothing.

Left out: renaming, resizing and expanding of published formats. A file in which anything differs is refused.
A model that was built sharded cannot be loaded here: compare with `report`, then fill parameter by parameter.
"""

import errno
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fd_scale.errors import BadInput, Retry

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """Names by what became of them; `mismatched` has (shape in the file, shape in the model)."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[Shape, Shape]]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for kind, tensors in (("missing", self.missing), ("unexpected", self.unexpected)):
            if tensors:
                parts.append(f"{len(tensors)} {kind} (first: {tensors[0]})")
        if self.mismatched:
            name, (found, wanted) = next(iter(self.mismatched.items()))
            parts.append(f"{len(self.mismatched)} of another shape (first: {name} is {found}, the model has {wanted})")
        return ", ".join(parts)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a torch file that needs no code to read, on the CPU.

    Raises BadInput for content that is no such file, Retry when storage does not answer.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path} holds pickled code or is no torch file: save its tensors alone") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # with which torch answers to a torn archive
            raise Retry(f"{path} could not be read: {error}") from error
        raise BadInput(f"{path} is not a whole torch file") from error
    except (RuntimeError, EOFError) as error:
        raise BadInput(f"{path} is not a whole torch file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(f"{path} is not a flat mapping from names to tensors; save its state dict alone")
    return content


def report(model_shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> LoadReport:
    """How the tensors of a file fit a model."""
    common = [name for name in model_shapes if name in tensors]
    mismatched = {
        name: (tuple(tensors[name].shape), tuple(model_shapes[name]))
        for name in common
        if tuple(tensors[name].shape) != tuple(model_shapes[name])
    }
    return LoadReport(
        matched=tuple(name for name in common if name not in mismatched),
        missing=tuple(name for name in model_shapes if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in model_shapes),
        mismatched=mismatched,
    )


def read_fitting_weights(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file whose names and shapes are exactly the model's; else BadInput.

    The model may be on the meta device: only its names and shapes count.
    """
    tensors = read_weights(path)
    outcome = report({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, tensors)
    if not outcome.complete:
        raise BadInput(f"weights {path} do not fit the model: {outcome}")
    return tensors


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Fill every parameter of an unsharded model from a file, in the model's type; BadInput, and the model untouched,
    unless the file fits exactly.
    """
    tensors = read_fitting_weights(model, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return report({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, tensors)
