"""Real DeepSpeed engines on two processes (gloo, CPU). Each check is a function of `program.py`."""

import sys
from pathlib import Path

import pytest
from helpers import small_disk

from fd_scale.launch import launch

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))


def check(*words: str, nproc: int = 2) -> int:
    return launch([str(word) for word in words], nproc=nproc, program=PROGRAM)


def test_sharded_build_equals_unsharded_tensor_by_tensor():
    assert check("sharded_build") == 0


def test_an_error_of_one_rank_is_raised_on_all():
    assert check("agreement") == 0


def test_recompute_changes_nothing():
    assert check("recompute") == 0


def test_a_sharded_frozen_model_equals_the_plain_one():
    assert check("frozen") == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resume_equals_uninterrupted(stage, precision, tmp_path):
    assert check("resume", stage, precision, tmp_path) == 0


def test_a_checkpoint_of_two_ranks_is_read_by_one_and_by_three(tmp_path):
    assert check("resume", 3, "fp32", tmp_path) == 0
    assert check("elastic", tmp_path, "fp32", nproc=1) == 0
    assert check("elastic", tmp_path, "bf16", nproc=3) == 0
    assert check("other_model", tmp_path) == 0


def test_a_full_disk_while_saving_leaves_the_previous_checkpoint_whole(tmp_path):
    with small_disk(tmp_path, mebibytes=4):
        assert check("full_disk", tmp_path) == 0
