import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Launcher, wait_until


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """After the test nothing of it may be left: checked here, once for every test."""
    launcher = Launcher(tmp_path)
    yield launcher
    try:
        wait_until(lambda: not launcher.processes(), seconds=5)
    finally:
        for process in launcher.processes():
            os.kill(process, 9)
