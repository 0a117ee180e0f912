import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from types import SimpleNamespace

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fd_scale.train.config import RunConfig
from fd_scale.train.metrics import Metrics, Throughput
from fd_scale.train.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    return folder


def write(folder: RunFolder, first: int, last: int, **keys) -> None:
    metrics = Metrics(RunConfig(str(folder.folder), **keys), folder, {"train": {"seed": 0}}, first)
    for step in range(first + 1, last + 1):
        metrics.log(step, {"loss": 1 / step})
    metrics.close()


def test_tensorboard_says_what_metrics_jsonl_says_after_a_resume_too(folder):
    write(folder, 0, 5)
    folder.forget_after(3)
    write(folder, 3, 6)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    events = EventAccumulator(str(folder.folder / "tensorboard"))
    events.Reload()
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss")] == [
        (line["step"], line["loss"]) for line in lines
    ]


def test_a_torn_last_line_of_a_killed_run_is_dropped(folder):
    folder.metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    folder.forget_after(2)
    assert folder.metrics.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_mlflow_gets_every_step(folder, tmp_path, monkeypatch):
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write(folder, 0, 3, mlflow=uri)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("fd_scale").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]


def test_wandb_writes_an_offline_run(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(folder, 0, 3, wandb="fd_scale")
    assert list((folder.folder / "wandb").glob("offline-run-*/*.wandb"))


def test_throughput_counts_no_evaluation_and_no_save_right_after_a_figure(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("fd_scale.train.metrics.time", SimpleNamespace(monotonic=lambda: clock[0]))
    throughput = Throughput()
    throughput.add(100)
    clock[0] = 10.0
    with throughput.paused():
        clock[0] = 1000.0
    assert throughput.images_per_second() == 10.0
    clock[0] = 2000.0
    throughput.after_save()
    throughput.add(30)
    clock[0] = 2001.0
    throughput.after_save()  # in the middle of an interval, so it counts
    clock[0] = 2003.0
    assert throughput.images_per_second() == 10.0


PROGRESS = """
import time
from fd_scale.train.metrics import ProgressLine
progress = ProgressLine(0, 3)
for step in (1, 2, 3):
    time.sleep(0.15)
    progress.advance(0.5)
    progress.line(step, {"loss": 0.5})
progress.close()
"""


def read_all(terminal: int) -> str:
    chunks = []
    with contextlib.suppress(OSError):  # how the end of a terminal shows on Linux
        while chunk := os.read(terminal, 4096):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_progress_is_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    subprocess.run([sys.executable, "-c", PROGRESS], stderr=theirs, check=True)
    os.close(theirs)
    text = read_all(ours)
    assert "3/3" in text
    assert "step/s" in text
    assert "loss 0.5000" in text
    assert "\r" in text


def test_progress_is_plain_lines_elsewhere():
    done = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "1/3"], ["step", "2/3"], ["step", "3/3"]]
    assert all(line.endswith("left") for line in lines)
