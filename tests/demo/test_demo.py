"""The demo as a user runs it, in full once, and in a form that cannot learn."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fd_scale.demo.run import demo
from fd_scale.errors import BadInput


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_the_demo_proves_that_the_student_learned_and_is_reused(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "fd_scale", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out / "index.html")

    shares = {
        name.strip(): float(share) for name, share in re.findall(r"^   (\S.*?)\s+(-?[\d.]+)%$", done.stderr, re.M)
    }
    student = shares.pop("student, its own head")
    assert set(shares) >= {"zero", "pixel statistics, ridge", "untrained student, ridge"}
    assert student > max(share for name, share in shares.items() if name != "student, ridge")

    page = (out / "index.html").read_text()
    assert "The student beats every baseline" in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:)\w", page)  # nothing outside of the page

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    began = time.monotonic()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert time.monotonic() - began < 60  # nothing was trained again


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(10):
        coarse = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        coarse.resize((240, 180), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_a_student_that_did_not_learn_fails_the_demo(photographs, tmp_path):
    out = tmp_path / "demo"
    short = ["schedule.steps=2", "schedule.warmup_steps=1", "train.global_batch=8", "train.micro_batch=4"]
    with pytest.raises(BadInput, match="does not beat every baseline"):
        demo(out, images=photographs, teacher="demo", overrides=short)
    assert "The student does not beat every baseline" in (out / "failed.html").read_text()
    assert not (out / "index.html").exists()
    with pytest.raises(BadInput, match="holds a demo of images"):
        demo(out, teacher="demo")


def test_folders_that_are_not_a_demos_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="holds something else than a demo"):
        demo(tmp_path, teacher="demo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="0 images"):
        demo(tmp_path / "out", images=tmp_path / "empty", teacher="demo")
