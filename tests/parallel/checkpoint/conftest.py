"""A real checkpoint, written once."""

from pathlib import Path

import pytest
from parallel.running import check
from support.session import once


@pytest.fixture(scope="session")
def saved() -> Path:
    """A folder with the checkpoint of step 3 that two processes wrote, and the losses that followed."""

    def make(folder: Path) -> None:
        assert check("parallel.checkpoint.program", "train_and_save", folder) == 0

    return once("saved", make)
