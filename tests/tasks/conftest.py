"""A run that nothing disturbed, and labelled data."""

from pathlib import Path

import pytest
from helpers import tiny_arguments
from tasks.labelled import packed
from tasks.running import run


@pytest.fixture(scope="session")
def finished(shards, teacher_file, tmp_path_factory) -> tuple[Path, list[str]]:
    """An undisturbed run and its arguments."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = tiny_arguments(shards, teacher_file, folder)
    code, errors = run(arguments)
    assert code == 0, errors
    return folder, arguments


@pytest.fixture(scope="session")
def coloured(tmp_path_factory) -> tuple[Path, Path]:
    """Training and validation shards of three classes."""
    folder = tmp_path_factory.mktemp("coloured")
    names = ("blue", "green", "red")
    return packed(folder / "train", names, 48, seed=0), packed(folder / "val", names, 21, seed=1)
