"""`run.keep.best` names something that the run measures, or the run does not start."""

import pytest
from tasks.in_process import finetuned, group_of_one

from fd_scale.errors import BadInput


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run.keep.best=knn"], "run.keep.best=knn is never measured in this run, which has loss, accuracy,"),
        (["run.keep.best=ema_accuracy"], "run.keep.best=ema_accuracy is never measured"),
        (["run.keep.best=accuracy", "run.evaluate_every=null"], "which has loss; choose one"),
    ],
)
def test_a_metric_that_is_never_measured_is_refused(coloured, tmp_path, words, line):
    train, validation = coloured
    with group_of_one(tmp_path), pytest.raises(BadInput) as refused:
        finetuned(tmp_path / "run", str(train), f"finetune.validation={validation}", *words)
    assert line in str(refused.value)
    assert not (tmp_path / "run").exists()
