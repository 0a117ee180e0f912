"""A real run with secrets wherever they can be given, and then a look at everything that it left and said."""

import json
import re
import shutil
import subprocess
import sys
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tasks.running import losses, run

from fd_scale.config import completed, differences
from fd_scale.errors import BadInput
from fd_scale.export import write_student
from fd_scale.tasks.config import DistillConfig
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

SECRET = b"hunter2"
"""How every secret here begins."""
RUN = {
    "info": {
        "run_id": "r1",
        "experiment_id": "0",
        "status": "RUNNING",
        "artifact_uri": "x",
        "lifecycle_stage": "active",
    },
    "data": {},
}


class Tracker(BaseHTTPRequestHandler):
    """What MLflow's client needs of a server, for those who know the password; keeps all that it is told."""

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes):
        self.server.told.append(self.path.encode() + b" " + body)
        known = self.headers["Authorization"] == "Basic " + b64encode(b"user:hunter2/Pass").decode()
        answers = {
            "experiments": {"experiment": {"experiment_id": "0", "name": "fd_scale", "lifecycle_stage": "active"}},
            "runs": {"run": RUN},
        }
        kind = next(kind for kind in answers if f"/{kind}/" in self.path)
        content = json.dumps({**answers[kind], "run_info": RUN["info"]} if known else {}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def tracker():
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracker) as server:
        server.told = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def holding_secrets(*folders: Path) -> list[Path]:
    """The files that hold one, or have it in their name."""
    files = [path for folder in folders for path in [folder, *folder.rglob("*")]]
    return [path for path in files if SECRET in (path.read_bytes() if path.is_file() else b"") + str(path).encode()]


def test_no_secret_is_left_anywhere_and_a_rotated_one_resumes(finished, tiny_run, tmp_path, tracker, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2OfTheHub")
    folder, stored, student = tmp_path / "run", tmp_path / "stored", tmp_path / "student.safetensors"

    def arguments(token: str) -> list[str]:
        return [
            *tiny_run,
            f"run.checkpoints=file://{stored}?token=hunter2{token}",
            f"start.init_from=file://{finished[0]}/checkpoints?token=hunter2{token}",
            f"run.mlflow=http://user:hunter2%2FPass@127.0.0.1:{tracker.server_port}",
            "run.stop_at=3",
            "run.keep.last=2",
        ]

    code, said = run(arguments("First"), nproc=1)
    assert code == 0, said
    first = losses(folder)
    shutil.rmtree(stored / "step_00000003")
    code, again = run(arguments("Second"), nproc=1)
    assert code == 0, again
    assert f"resuming from file://{stored}/step_00000002" in again
    assert losses(folder) == first

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["start"]["init_from"] == f"file://{finished[0]}/checkpoints?token=***"
    assert config["run"]["mlflow"] == f"http://user:***@127.0.0.1:{tracker.server_port}"
    exporting = [sys.executable, "-m", "fd_scale", "export", f"file://{stored}", str(student)]
    exported = subprocess.run(exporting, capture_output=True, text=True, check=True)
    assert holding_secrets(tmp_path) == []
    assert SECRET.decode() not in said + again + exported.stdout + exported.stderr
    assert any(b"log-batch" in told for told in tracker.told)
    assert SECRET not in b"".join(tracker.told)

    # What a run folder stores cannot be started from, and says so.
    code, refused = run(["distill", str(folder / "config.yaml")], nproc=1)
    assert code == 2
    assert "was written down without its secret" in refused


def test_a_refused_address_is_named_without_its_secret(tiny_run):
    code, said = run([*tiny_run, "data.train=https://user:hunter2Pass@host/{000..009}.tar?token=hunter2Token"], nproc=1)
    assert code == 2
    assert "data.train: https://user:***@host/{000..009}.tar?token=*** is a URL" in said
    assert "hunter2" not in said


def test_a_teacher_that_cannot_be_read_is_named_without_its_secret():
    with pytest.raises(BadInput) as caught:
        build_teacher(TeacherConfig(spec="timm:vit_tiny_patch16_224.augreg_in21k@https://u:hunter2Pass@host/a.pth"), 32)
    assert "hunter2" not in str(caught.value)
    assert "***@host/a.pth" in str(caught.value)


def test_an_export_of_an_older_run_that_stored_a_secret_holds_none(tmp_path):
    origin = {"student": {"weights": "https://user:hunter2Pass@host/a"}, "image_size": 32}
    write_student(tmp_path / "a.safetensors", {"x": (torch.float32, (2,))}, origin, lambda name: torch.zeros(2))
    assert holding_secrets(tmp_path) == []
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert re.search(r"https://user:\*\*\*@host/a", str(file.metadata()))


def test_an_older_run_that_stored_a_secret_is_the_same_run():
    def stored(value: str) -> dict:
        return completed(DistillConfig, {"student": {"weights": value}})

    there, here = stored("https://user:hunter2Pass@host/a?token=b"), stored("https://user:***@host/a?token=***")
    assert differences(DistillConfig, there, here) == []
    [line] = differences(DistillConfig, there, stored("https://user:***@elsewhere/a"))
    assert "hunter2" not in line
