"""Published code, imported from a clone as it is, and run in fp64 although it asks for fp32 by name."""

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

TOP_MODULES = ("models", "config", "data", "kernels", "logger", "lr_scheduler", "optimizer", "utils")


@dataclass(frozen=True)
class Clone:
    """Clone of a published repository.

    `folder`: a work tree, whose commit is what the fixtures name.
    """

    repository: str
    folder: Path

    @property
    def commit(self) -> str:
        command = ["git", "-C", str(self.folder), "rev-parse", "HEAD"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def module(self, name: str) -> ModuleType:
        """Import a module of this clone.

        Both clones call theirs `models`, so what another one left behind is forgotten.
        """
        for loaded in list(sys.modules):
            if loaded.split(".")[0] in TOP_MODULES:
                del sys.modules[loaded]
        sys.path.insert(0, str(self.folder))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(self.folder))


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of that type; with fp64, `.float()` and `.type(torch.float32)` leave fp64 as it is.

    Published code widens fp16 with those two, which would round an fp64 run to fp32 on its way.
    """
    to_float, to_type = Tensor.float, Tensor.type

    def keep_float(self: Tensor) -> Tensor:
        return self if self.dtype == torch.float64 else to_float(self)

    def keep_type(self: Tensor, *wanted: Any) -> Any:
        return self if self.dtype == torch.float64 and wanted == (torch.float32,) else to_type(self, *wanted)

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    if dtype == torch.float64:
        Tensor.float, Tensor.type = keep_float, keep_type  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        Tensor.float, Tensor.type = to_float, to_type  # type: ignore[method-assign]
