"""The run whose files are damaged."""

from pathlib import Path

import pytest
from tasks.running import distilled


@pytest.fixture(scope="session")
def finished(shards, teacher_file) -> tuple[Path, list[str]]:
    return distilled(shards, teacher_file)
