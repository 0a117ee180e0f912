"""Checkpoints of real engines on one, two and three processes. Each check is a function of `program.py` or
`saving_program.py`."""

from functools import partial

import pytest
from parallel.running import check
from support.helpers import small_disk
from support.parts import sweep

check_saving = partial(check, "parallel.checkpoint.saving_program")
check = partial(check, "parallel.checkpoint.program")


@pytest.mark.parametrize("which", sweep(["spread", "all"], ["spread"]))
def test_resume_equals_uninterrupted_at_every_stage(tmp_path, which):
    assert check("resume", tmp_path, which) == 0


@pytest.mark.parametrize("nproc", sweep([1, 2, 3], [3]))
def test_what_two_ranks_wrote_is_the_same_on_any_number_at_any_stage(saved, tmp_path, nproc):
    assert check("elastic", saved, tmp_path, nproc=nproc) == 0


@pytest.mark.exhaustive
def test_what_three_and_one_wrote_is_the_same_on_two(tmp_path):
    for nproc in (3, 1):
        assert check("train_and_save", tmp_path / str(nproc), nproc=nproc) == 0
        assert check("elastic", tmp_path / str(nproc), tmp_path / f"again{nproc}") == 0


def test_fp32_masters_are_read_by_a_bf16_run_of_three(saved):
    assert check("read_as_bf16", saved, nproc=3) == 0


@pytest.mark.parametrize("nproc", [1, 2])
def test_plain_modules_with_any_torch_optimizer_resume_exactly(tmp_path, nproc):
    assert check("plain", tmp_path, nproc=nproc) == 0


def test_the_sharded_average_equals_the_formula(tmp_path):
    assert check("average", tmp_path) == 0


def test_a_plain_copy_to_evaluate_with_equals_what_is_trained():
    assert check("evaluation_copy") == 0


def test_another_model_optimizer_or_a_missing_average_is_refused(saved, tmp_path):
    assert check_saving("refusals", saved, tmp_path) == 0


def test_a_damaged_checkpoint_is_warned_of_where_the_one_before_cannot_be_opened(saved, tmp_path):
    assert check_saving("unreadable", saved, tmp_path) == 0


def test_training_on_while_a_checkpoint_is_written_changes_nothing_of_it(tmp_path):
    assert check_saving("background", tmp_path) == 0


def test_a_full_disk_while_saving_leaves_the_previous_checkpoint_whole(tmp_path):
    with small_disk(tmp_path, mebibytes=4):
        assert check_saving("full_disk", tmp_path) == 0


def test_damaged_checkpoints_that_resuming_passed_by_push_no_whole_one_out(tmp_path):
    assert check_saving("passed_by", tmp_path) == 0


def test_checkpoints_at_a_url(tmp_path):
    assert check_saving("anywhere", f"file://{tmp_path}") == 0
