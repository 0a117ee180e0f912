"""Numbers of the strategy and of the backbones are checked before anything is built."""

import math
import os

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from mmengine.registry import MODELS, STRATEGIES
from support.helpers import REPOSITORY

import fd_scale_downstream  # noqa: F401  registers
from fd_scale.errors import BadInput
from fd_scale_downstream.__main__ import main
from fd_scale_downstream.records import read_state_dict

CONFIGS = REPOSITORY / "downstream/configs/coco_mini"
VIT = {"type": "FDViT", "name": "vit_tiny", "image_size": 32}
STRATEGY = {"type": "FDStrategy"}


@pytest.mark.parametrize(
    ("registry", "config", "line"),
    [
        (STRATEGIES, STRATEGY | {"accumulation": 0}, "accumulation=0: give a whole number from 1"),
        (STRATEGIES, STRATEGY | {"ema_decay": math.nan}, "ema_decay=nan: give a number"),
        (STRATEGIES, STRATEGY | {"watchdog_minutes": math.inf}, "watchdog_minutes=inf: give a number"),
        (STRATEGIES, STRATEGY | {"keep": {"last": 0}}, r"strategy\.keep\.last = 0: give a whole number"),
        (STRATEGIES, STRATEGY | {"parallel": {"timeout_minutes": True}}, r"strategy\.parallel\.timeout_minutes = True"),
        (MODELS, VIT | {"out_channels": 0}, "out_channels=0: give a whole number"),
        (MODELS, VIT | {"drop_path": math.nan}, r"backbone\.drop_path = nan: give a number"),
        (MODELS, VIT | {"seed": -1}, "seed=-1: give a whole number"),
        (
            MODELS,
            {"type": "FDSwinV2", "name": "swin_v2_tiny", "window": 0},
            r"backbone\.window = 0: give a whole",
        ),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(registry, config, line):
    with pytest.raises(BadInput, match=line):
        registry.build(config)


def test_what_a_command_line_names_is_checked_before_anything_is_built(tmp_path):
    (tmp_path / "config.py").write_text("model = dict(\n")
    (tmp_path / "good.py").write_text("model = dict()\n")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for words, line in (
        (["train", "/proc/nowhere.py"], "config /proc/nowhere.py cannot be read"),
        (["train", str(tmp_path / "config.py")], "config.py cannot be read: "),
        (["train", str(tmp_path / "good.py"), "--work-dir", str(tmp_path / "file")], "file is a file; give a folder"),
        (["train", str(tmp_path / "good.py"), "--work-dir", "/proc/run"], "--work-dir /proc/run cannot be written"),
        (["train", os.fsdecode(b"\xff.py")], "on the command line is not UTF-8"),
        (["export", str(tmp_path), str(tmp_path)], "is a folder; name a file in it"),
        (["export", str(tmp_path), str(tmp_path / "pipe")], "is a device, a pipe or a socket"),
    ):
        with pytest.raises(BadInput, match=line):
            main(words)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", b"\x80\x02."])
def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(BadInput, match=r"file\.pth cannot be read without unpickling"):
        read_state_dict(str(tmp_path / "file.pth"))


STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
MEETING = {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
ALONE = "WORLD_SIZE=2, and mmengine's plain runner"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs the plain runner takes several ranks")
@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, ALONE),
        ({**STEP, **MEETING}, ALONE),
        ({**STEP, **MEETING, "SLURM_PROCID": "x"}, "SLURM_PROCID='x' in the environment"),
    ],
)
def test_ranks_that_would_each_train_by_themselves_are_refused(environment, line, monkeypatch, tmp_path):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # so that what the program sets goes with the test
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=line):
        main(["train", str(CONFIGS / "upernet_swin_v2_nano.py"), "--work-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
