"""A real job takes the memory that its plan says."""

import re
import subprocess
import sys

import pytest
from support.helpers import REPOSITORY

COMMAND = [sys.executable, "-m", "tools.measure_memory"]


@pytest.mark.exhaustive
@pytest.mark.real_start
@pytest.mark.parametrize("recompute", ["all", "none"])
def test_swin_v2_base_at_stage_3_takes_what_plan_says(recompute):
    """Live tensors and resident memory. A real start: a rank that is forked off a server shares the server's memory."""
    words = ["base", "--stages", "3", "--recompute", recompute]
    done = subprocess.run([*COMMAND, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=1200)
    print(done.stdout)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"base ZeRO-3 {recompute}")]
    assert re.search(r"\d\.\d\d", line), line  # it was measured
    assert "out of bounds" not in line
    assert done.returncode == 0


def test_help_shows_how_it_is_called():
    done = subprocess.run([*COMMAND, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert "python -m tools.measure_memory base" in done.stdout
