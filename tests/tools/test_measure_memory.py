"""A real job takes the memory that its plan says."""

import subprocess
import sys

import pytest
from helpers import REPOSITORY

TOOL = REPOSITORY / "tools" / "measure_memory.py"


@pytest.mark.exhaustive
@pytest.mark.real_start
def test_swin_v2_base_at_stage_3_takes_what_plan_says():
    """A real start: a rank that is forked off a server shares the server's memory."""
    done = subprocess.run([sys.executable, TOOL, "base", "--stages", "3"], capture_output=True, text=True, timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_shows_how_it_is_called():
    done = subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True)
    assert "python tools/measure_memory.py base" in done.stdout
