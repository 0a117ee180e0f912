"""Programs of these tests run on ranks of their own and import from the tests' folder as the tests do."""

import os

import pytest
from support.helpers import REPOSITORY


@pytest.fixture(autouse=True, scope="session")
def _tests_on_path():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), str(REPOSITORY), before]))
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
