"""A run that nothing disturbed."""

from pathlib import Path

import pytest
from helpers import tiny_arguments
from tasks.running import run


@pytest.fixture(scope="session")
def finished(shards, teacher_file, tmp_path_factory) -> tuple[Path, list[str]]:
    """An undisturbed run and its arguments."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = tiny_arguments(shards, teacher_file, folder)
    code, errors = run(arguments)
    assert code == 0, errors
    return folder, arguments
