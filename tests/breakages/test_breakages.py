"""Each edit of `edits.py` is made to a copy of the project, and the tests that it names must notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from breakages.edits import EDITS
from support import warm
from support.helpers import REPOSITORY

TESTS_FAILED = 1


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_finds_its_place(name, tmp_path):
    copy_project(tmp_path)
    path = EDITS[name].apply(tmp_path / "fd_scale")
    assert path.read_text() != (REPOSITORY / path.relative_to(tmp_path)).read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EDITS)
def test_the_tests_of_the_place_catch_it(name, tmp_path):
    """In a pytest of its own, which brings a warm server of its own."""
    copy_project(tmp_path)
    EDITS[name].apply(tmp_path / "fd_scale")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "FD_SCALE_TEST"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(tmp_path / "downstream")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *EDITS[name].tests]
    with warm.real():
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == TESTS_FAILED, done.stdout[-4000:] + done.stderr[-2000:]
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed, "tests could not even be collected or set up: " + done.stdout[-4000:]


def copy_project(folder: Path) -> None:
    """What git tracks, as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
