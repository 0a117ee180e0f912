"""Batch normalisation over ranks, held to torch's on the joined batch."""

import os

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from mmcv.cnn import build_norm_layer
from parallel.running import check
from support.helpers import REPOSITORY
from torch import nn

from fd_scale_downstream.norm import FDSyncBN


@pytest.fixture(autouse=True)
def _programs_of_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("first_rank_has", [2, 0])
def test_ranks_compute_what_one_does_with_all_samples_and_one_may_have_none(first_rank_has):
    assert check("downstream.norm_program", "equals_joined", first_rank_has) == 0


@pytest.mark.parametrize(("option", "value"), [("momentum", "none"), ("affine", "false")])
def test_options_mean_what_they_do_in_torch(option, value):
    assert check("downstream.norm_program", "equals_joined", 3, option, value) == 0


def test_bf16_is_rounded_once_and_statistics_stay_in_fp32():
    assert check("downstream.norm_program", "bf16_is_rounding") == 0


def test_a_batch_that_is_empty_on_all_ranks_changes_nothing():
    assert check("downstream.norm_program", "nobody_has_samples") == 0


def test_one_process_computes_what_torch_does():
    torch.manual_seed(0)
    ours, reference = FDSyncBN(3), nn.BatchNorm2d(3)
    maps = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(maps), reference(maps))
    torch.testing.assert_close(ours.running_var, reference.running_var)


def test_a_config_names_it_as_it_would_name_syncbn():
    name, layer = build_norm_layer({"type": "FDSyncBN", "requires_grad": True}, 4, postfix=1)
    published, theirs = build_norm_layer({"type": "SyncBN", "requires_grad": True}, 4, postfix=1)
    assert name == published
    assert layer.state_dict().keys() == theirs.state_dict().keys()
