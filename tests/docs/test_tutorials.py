"""The tutorials are run as they are printed, from a folder that holds nothing but photographs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from docs.pages import blocks, matches
from PIL import Image
from support.helpers import REPOSITORY

TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))
SHARED = REPOSITORY.parent / "shared" / "data" / "flowers160"
BETWEEN = "-- the next block of the tutorial --"


def photographs(folder: Path) -> None:
    """Real flowers where they are beside the checkout; made of random colours elsewhere, which show the way as well."""
    if SHARED.is_dir():
        shutil.copytree(SHARED, folder)
        return
    random = np.random.default_rng(0)
    for split, count in (("train", 100), ("val", 30)):
        for number in range(count):
            file = folder / split / ("daisy", "tulips")[number % 2] / f"{number:04d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
            coarse.resize((160, 120), Image.Resampling.BICUBIC).save(file, quality=90)


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_it_is_printed(tutorial, tmp_path):
    photographs(tmp_path / "photos")
    parts = blocks(tutorial)
    assert parts
    script = f"\necho '{BETWEEN}'\n".join(block.commands for block in parts)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'downstream'}",
    }
    command = ["bash", "-e", "-c", f"exec 2>&1\n{script}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    printed = [part.splitlines() for part in done.stdout.split(f"{BETWEEN}\n")]
    for block, lines in zip(parts, printed, strict=True):
        missing = [expected for expected in block.printed if not any(matches(expected, line) for line in lines)]
        assert not missing, (missing, lines)
