"""How a run ends that a signal stopped. Through `launch`, on two hosts: `cluster/test_ssh.py`."""

import os
import signal

import pytest
from tasks.in_process import finetuned, group_of_one

from fd_scale.errors import BadInput
from fd_scale.stops.stopped_exit import STOPPED_EXIT, StoppedEarly, stop_is_failure
from fd_scale.train import loop


def signal_in_step(number: int, monkeypatch) -> None:
    """SIGTERM comes while the step that follows on `number` steps is under way."""
    step_of_the_loop = loop.optimizer_step

    def step(*arguments):
        if arguments[-1] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_of_the_loop(*arguments)

    monkeypatch.setattr(loop, "optimizer_step", step)


def test_a_stop_is_no_success_where_the_environment_says_so(coloured, tmp_path, monkeypatch):
    run, words = tmp_path / "run", [str(coloured[0]), f"finetune.validation={coloured[1]}"]
    with group_of_one(tmp_path), monkeypatch.context() as patched:
        signal_in_step(0, patched)
        assert finetuned(tmp_path / "other", *words) == tmp_path / "other"
        patched.setenv(STOPPED_EXIT, "75")
        with pytest.raises(StoppedEarly) as stopped:
            finetuned(run, *words)
        assert str(stopped.value).startswith("stopped by a signal after step 1 of 2, which is saved; start the same")
        assert stopped.value.exit_code == 75
        signal_in_step(1, patched)  # the last step: the schedule is done
        assert finetuned(run, *words) == run
        assert (run / "checkpoints" / "step_00000002").exists()


@pytest.mark.parametrize(("value", "failure"), [(None, False), ("", False), ("0", False), ("75", True)])
def test_values_that_are_taken(monkeypatch, value, failure):
    monkeypatch.delenv(STOPPED_EXIT, raising=False)
    if value is not None:
        monkeypatch.setenv(STOPPED_EXIT, value)
    assert stop_is_failure() is failure


@pytest.mark.parametrize("value", ["1", "yes", "075", "-75"])
def test_any_other_value_is_refused(monkeypatch, value):
    monkeypatch.setenv(STOPPED_EXIT, value)
    with pytest.raises(BadInput, match=f"{STOPPED_EXIT}='{value}' is neither 0 nor 75"):
        stop_is_failure()
