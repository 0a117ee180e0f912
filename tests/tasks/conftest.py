"""A run that nothing disturbed, and labelled data."""

from pathlib import Path

import pytest
from helpers import tiny_arguments
from support.session import once
from tasks.labelled import packed
from tasks.running import run


@pytest.fixture(scope="session")
def finished(shards, teacher_file) -> tuple[Path, list[str]]:
    """An undisturbed run and its arguments."""

    def make(folder: Path) -> None:
        code, errors = run(tiny_arguments(shards, teacher_file, folder / "run"))
        assert code == 0, errors

    folder = once("distilled", make) / "run"
    return folder, tiny_arguments(shards, teacher_file, folder)


@pytest.fixture(scope="session")
def coloured() -> tuple[Path, Path]:
    """Training and validation shards of three classes."""
    names = ("blue", "green", "red")
    return (
        once("coloured_train", lambda folder: packed(folder, names, 48, seed=0)) / "shards",
        once("coloured_val", lambda folder: packed(folder, names, 21, seed=1)) / "shards",
    )
