"""A damaged file of a run folder ends a start with a line, and stays as it is for people to look at."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from fd_scale.config import differences
from fd_scale.errors import BadInput
from fd_scale.parallel.ranks import Ranks
from fd_scale.tasks.config import DistillConfig
from fd_scale.train.config import RunConfig
from fd_scale.train.metrics import Metrics
from fd_scale.train.run_folder import RunFolder, stored_config

ALONE = Ranks(0, 0, 1, torch.device("cpu"))
DIFFERENCES = partial(differences, DistillConfig)
RESOLVED = {"run": {"folder": "x"}, "train": {"seed": 0}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """Of two logged steps."""
    folder = RunFolder(tmp_path / "run")
    folder.create(RESOLVED, ALONE)
    folder.metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return folder


DAMAGES = {
    "config.yaml": [b"{{{", b"\xff\xfe", b"5", b"", b"a: &a [*a]", b"[" * 5000, b"x" * 300_000],
    "environment.json": [b"[{", b"\xff\xfe", b"{}", b"", b"[" * 100_000],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in DAMAGES for content in DAMAGES[name]])
def test_a_damaged_file_is_named_with_the_fix_and_kept(run, name, content):
    (run.folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=rf"run/{name} is damaged \(.*\); restore it, or move it away: "):
        run.check(RESOLVED, DIFFERENCES)
    assert (run.folder / name).read_bytes() == content


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl"])
def test_a_folder_in_place_of_a_file_is_named(run, name):
    (run.folder / name).unlink()
    (run.folder / name).mkdir()
    with pytest.raises(BadInput, match=f"{name} is a folder, where a run has a file"):
        run.check(RESOLVED, DIFFERENCES)


def test_the_fix_that_is_named_helps(run):
    (run.folder / "environment.json").unlink()
    (run.folder / "config.yaml").unlink()
    with pytest.raises(BadInput, match=r"holds files but no config.yaml"):
        run.check(RESOLVED, DIFFERENCES)
    (run.checkpoints / "step_00000002").mkdir(parents=True)  # says which run this is
    run.check(RESOLVED, DIFFERENCES)
    run.create(RESOLVED, ALONE)
    assert len(json.loads(run.environment.read_text())) == 1
    assert yaml.safe_load(run.config.read_text()) == RESOLVED


def test_a_damaged_configuration_counts_as_not_there_until_resuming_names_it(run):
    run.config.write_bytes(b"a: &a [*a]")
    assert stored_config(RunConfig(str(run.folder))) is None


@pytest.mark.parametrize(
    "line", [b"garbage", b"[1]", b'{"loss": 1}', b'{"step": "2"}', b"\xff\xfe", b"\0\0", b"[" * 9999]
)
def test_a_damaged_line_of_metrics_is_named_and_nothing_is_dropped(run, line):
    before = b'{"step": 1}\n' + line + b'\n{"step": 3}\n{"step": 4}\n'
    run.metrics.write_bytes(before)
    with pytest.raises(
        BadInput, match=r"run/metrics.jsonl line 2 is damaged \(.*; restore the file, or remove that line"
    ):
        run.forget_after(3)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize("tail", [b'{"step": 4, "lo', b"", b"\0" * 512, b'{"step": 4}\n{"st'])
def test_what_a_kill_leaves_at_the_end_of_metrics_is_dropped(run, tail):
    run.metrics.write_bytes(b'{"step": 1}\n\n{"step": 2}\n' + tail)
    run.forget_after(3)
    assert run.metrics.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_metrics_are_on_the_disk_when_they_are_synced(run, monkeypatch):
    """Only a power failure shows the difference, so the call stands for it. It is really made."""
    synced: list[str] = []
    real = os.fsync

    def fsync(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    metrics = Metrics(RunConfig(str(run.folder), tensorboard=False), run, RESOLVED, 2)
    assert synced == ["run"]  # the name of the file
    metrics.log(3, {"loss": 1.0})
    metrics.sync()
    assert synced == ["run", "metrics.jsonl"]
    metrics.close()
