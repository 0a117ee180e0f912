"""What `launch` learns of the command that it is to start again."""

import pytest
from support.helpers import REPOSITORY

from fd_scale.errors import BadInput
from fd_scale.verbs.launched import work_of

CONFIG = str(REPOSITORY / "configs/demo/swin_v2.yaml")


def test_batch_folder_and_checkpoints_of_a_training_verb(tmp_path):
    words = [f"run.folder={tmp_path}", "train.global_batch=12", "train.micro_batch=3", "data.train=shards"]
    work = work_of(["distill", CONFIG, *words])
    assert (work.global_batch, work.micro_batch, work.folder, work.newest_step()) == (12, 3, tmp_path, 0)
    (tmp_path / "checkpoints" / "step_00000006").mkdir(parents=True)
    assert work.newest_step() == 6


def test_checkpoints_may_lie_elsewhere(tmp_path):
    words = [f"run.folder={tmp_path / 'run'}", f"run.checkpoints={tmp_path / 'elsewhere'}", "data.train=shards"]
    (tmp_path / "elsewhere" / "step_00000002").mkdir(parents=True)
    assert work_of(["distill", CONFIG, *words]).newest_step() == 2


@pytest.mark.parametrize(
    "command", [["knn", "a.yaml"], ["plan", CONFIG], ["nothing"], ["distill"], ["distill", "--help"]]
)
def test_a_command_that_does_not_train_has_none(command):
    assert work_of(command) is None


def test_a_mistake_in_the_configuration_is_told_before_anything_starts():
    with pytest.raises(BadInput, match=r"did you mean `train\.global_batch`"):
        work_of(["distill", CONFIG, "train.globalbatch=3"])
