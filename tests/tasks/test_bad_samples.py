"""Samples that cannot be used, in real runs on two processes: counted, named in the logs, and limited."""

import json
import shutil
from pathlib import Path

import pytest
from tasks.running import run

from fd_scale.data.shards import read_index


@pytest.fixture
def half_bad(shards, tmp_path) -> Path:
    """A copy of the shards in which every second sample is zeros."""
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    for index in copy.glob("*.idx"):
        with open(index.with_suffix(".tar"), "r+b") as file:
            for members in read_index(index)[::2]:
                file.seek(members[0].offset)
                file.write(b"\0" * members[0].bytes)
    return copy


def test_bad_samples_are_counted_and_named_and_too_many_stop_the_run(tiny_run, half_bad, tmp_path):
    arguments = [*tiny_run, f"data.train={half_bad}"]
    code, errors = run([*arguments, "data.max_bad_share=1"])
    assert code == 0, errors
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["bad_samples"] == last["bad_samples/undecodable"] > 10
    logs = "".join(log.read_text() for log in (tmp_path / "run" / "logs").iterdir())
    assert logs.count("is undecodable; its neighbour stands in") == last["bad_samples"]

    code, errors = run([*arguments, f"run.folder={tmp_path / 'strict'}", "data.max_bad_share=0.01"])
    assert code == 2, errors
    (line,) = [entry for entry in errors.splitlines() if entry.startswith("fd-scale: ")]
    assert "samples could not be used" in line
    assert "more than data.max_bad_share 0.01" in line
