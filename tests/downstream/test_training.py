"""Plain mmengine, one process: every shipped config trains on made data, and its checkpoint tests the same."""

from pathlib import Path

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from downstream.mini_data import write_mini_data
from support.helpers import REPOSITORY

from fd_scale_downstream.__main__ import main

CONFIGS = REPOSITORY / "downstream/configs/coco_mini"
STEPS = 2
SHORT = [f"train_cfg.max_iters={STEPS}", f"train_cfg.val_interval={STEPS}", "default_hooks.logger.interval=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, Path]:
    return write_mini_data(tmp_path_factory.mktemp("data"), images=2)


@pytest.mark.parametrize(
    ("name", "losses", "metric"),
    [
        ("upernet_swin_v2_nano", {"decode.loss_ce", "aux.loss_ce"}, "aAcc"),
        ("htc_without_semantic_swin_v2_nano", {"loss_rpn_cls", "s0.loss_cls", "s2.loss_mask"}, "coco/segm_mAP"),
        ("htc_swin_v2_nano", {"loss_rpn_bbox", "s1.loss_bbox", "loss_semantic_seg"}, "coco/segm_mAP"),
    ],
)
def test_config_trains_and_its_checkpoint_tests_as_inside(name, losses, metric, data, tmp_path, monkeypatch):
    monkeypatch.setenv("COCO_MINI", str(data[0]))
    monkeypatch.setenv("COCO_MINI_SEMANTIC", str(data[1]))
    config = str(CONFIGS / f"{name}.py")
    trained = main(["train", config, "--work-dir", str(tmp_path / "run"), "--cfg-options", *SHORT])
    scalars = {key: value.data[0] for key, value in trained.message_hub.log_scalars.items()}
    assert {f"train/{loss}" for loss in losses} <= set(scalars)
    assert len(scalars["train/loss"]) == STEPS
    assert all(torch.tensor(scalars[key]).isfinite().all() for key in scalars if key.startswith("train/loss"))

    # Images padded with zeros bring a fresh SwinV2 to 1e12.
    assert max(scalars["train/grad_norm"]) < 1e4

    checkpoint = str(tmp_path / f"run/iter_{STEPS}.pth")
    tested = main(["test", config, "--work-dir", str(tmp_path / "test"), "--checkpoint", checkpoint])
    outside = tested.message_hub.get_scalar(f"test/{metric}").current()
    assert outside == trained.message_hub.get_scalar(f"val/{metric}").current()
    for parameter, again in zip(trained.model.parameters(), tested.model.parameters(), strict=True):
        assert torch.equal(parameter, again)
