"""A run that nothing disturbed, and labelled data."""

from pathlib import Path

import pytest
from support.session import once
from tasks.labelled import packed
from tasks.running import distilled


@pytest.fixture(scope="session")
def finished(shards, teacher_file) -> tuple[Path, list[str]]:
    """An undisturbed run and its arguments."""
    return distilled(shards, teacher_file)


@pytest.fixture(scope="session")
def coloured() -> tuple[Path, Path]:
    """Training and validation shards of three classes."""
    names = ("blue", "green", "red")
    return (
        once("coloured_train", lambda folder: packed(folder, names, 48, seed=0)) / "shards",
        once("coloured_val", lambda folder: packed(folder, names, 21, seed=1)) / "shards",
    )
