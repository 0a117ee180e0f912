"""mmengine's runners get the secrets of a config, and show none of them."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

from fd_scale.errors import BadInput
from fd_scale_downstream.runner import FDRunner
from fd_scale_downstream.shown import hiding_secrets
from fd_scale_downstream.strategy import _refuse_another_model

ADDRESS = "https://user:hunter2Pass@host/a.pth?token=hunter2Token"


@MODELS.register_module()
class RemembersItsWeights(BaseModel):
    def __init__(self, weights: str):
        super().__init__()
        self.weights = weights

    def forward(self, *_):
        return {}


@pytest.fixture
def config(tmp_path, monkeypatch):
    make = logging.getLogRecordFactory()
    yield Config(
        {
            "model": {"type": "RemembersItsWeights", "weights": ADDRESS},
            "work_dir": str(tmp_path / "run"),
            "default_scope": "mmengine",
            "storage": {"password": "hunter2Word", "with_cls_token": True},
            "visualizer": {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
            "experiment_name": tmp_path.name,
        }
    )
    logging.setLogRecordFactory(make)


@pytest.mark.parametrize("kind", [Runner, FDRunner])
def test_the_model_is_built_with_secrets_and_nothing_shows_them(kind, config, tmp_path):
    if kind is FDRunner:
        config.strategy = {"type": "SingleDeviceStrategy"}
        config.env_cfg = {}
    runner = hiding_secrets(kind).from_cfg(config)
    runner.logger.warning("cannot fetch %s", ADDRESS)
    if kind is Runner:
        assert runner.model.weights == ADDRESS
    assert config.model.weights == ADDRESS
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    assert any(path.suffix == ".py" for path in files)
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert "https://user:***@host/a.pth?token=***" in "".join(map(Path.read_text, files))
    assert runner.cfg.storage == {"password": "***", "with_cls_token": True}


def test_a_rotated_secret_is_the_same_model():
    there = SimpleNamespace(record={"model": {"weights": "https://user:***@host/a"}}, where="step")
    _refuse_another_model(there, {"weights": "https://user:hunter2Pass@host/a"})
    with pytest.raises(BadInput, match=r"differing in model\.weights"):
        _refuse_another_model(there, {"weights": "https://user:hunter2Pass@host/b"})
