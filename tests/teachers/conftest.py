"""`save`: a model to a checkpoint in the test's own folder."""

from pathlib import Path

import pytest
import torch
from tiny_models import save_teacher


@pytest.fixture
def save(tmp_path):
    def save(model: torch.nn.Module, name: str = "teacher.safetensors", facts: dict | None = None) -> Path:
        return save_teacher(model, tmp_path / name, facts)

    return save
