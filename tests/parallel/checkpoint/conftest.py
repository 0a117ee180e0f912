"""A real checkpoint, written once."""

from pathlib import Path

import pytest
from parallel.running import check


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A folder with the checkpoint of step 3 that two processes wrote, and the losses that followed."""
    folder = tmp_path_factory.mktemp("saved")
    assert check("parallel.checkpoint.program", "train_and_save", folder) == 0
    return folder
