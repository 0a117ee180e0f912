import json
import math
import random
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks.in_process import group_of_one

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.train.config import JUDGED_FROM, SpikeConfig
from fd_scale.train.guard import LossGuard

LOSSES = st.lists(st.floats(1e-3, 1e3), max_size=120)


def judged(guard: LossGuard, losses: list[float]) -> list[float | None]:
    return [guard.judge(loss) for loss in losses]


def test_a_spike_is_a_loss_above_ratio_times_the_median_of_the_window():
    guard = LossGuard(SpikeConfig(ratio=5.0, window=30))
    assert judged(guard, [9.0] * 10 + [2.0] * 30) == [None] * 40
    assert guard.judge(10.0) is None  # exactly five times
    assert guard.judge(math.nextafter(10.0, 11.0)) == 2.0
    assert guard.values() == {"loss_spikes": 1.0}


@given(LOSSES)
def test_every_judgement_follows_from_the_window_before_it(losses):
    decisions = judged(LossGuard(SpikeConfig(ratio=2.0, window=25)), losses)
    for step, (loss, decision) in enumerate(zip(losses, decisions, strict=True)):
        before = losses[max(0, step - 25) : step]
        spikes = len(before) >= JUDGED_FROM and loss > 2.0 * statistics.median(before)
        assert decision == (statistics.median(before) if spikes else None)


@given(LOSSES, st.integers(0, 120), st.integers(20, 60))
def test_a_resumed_guard_judges_as_an_undisturbed_one(losses, stopped_at, window):
    config = SpikeConfig(ratio=1.5, window=window)
    undisturbed, stopped, resumed = (LossGuard(config) for _ in range(3))
    first = judged(stopped, losses[:stopped_at])
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert first + judged(resumed, losses[stopped_at:]) == judged(undisturbed, losses)
    assert resumed.state() == undisturbed.state()
    assert resumed.values() == undisturbed.values()


def test_a_state_of_a_longer_window_gives_its_newest_losses():
    long, short = LossGuard(SpikeConfig(window=100)), LossGuard(SpikeConfig(window=20))
    judged(long, [100.0] * 60 + [1.0] * 20)
    short.restore(long.state())
    assert short.judge(6.0) == 1.0


def test_the_first_steps_are_not_judged():
    guard = LossGuard(SpikeConfig(ratio=2.0, window=20))
    assert judged(guard, [10.0**step for step in range(JUDGED_FROM)]) == [None] * JUDGED_FROM


def test_a_lasting_rise_is_reported_for_half_a_window():
    guard = LossGuard(SpikeConfig(ratio=5.0, window=40))
    judged(guard, [1.0] * 40)
    judged(guard, [100.0] * 40)
    assert guard.values() == {"loss_spikes": 20.0}  # then the median is between the two levels


def test_without_a_ratio_nothing_is_a_spike():
    guard = LossGuard(SpikeConfig(ratio=None))
    assert judged(guard, [1.0] * 50 + [1e9]) == [None] * 51


def test_a_median_that_is_not_positive_judges_nothing():
    guard = LossGuard(SpikeConfig())
    assert judged(guard, [-1.0] * 50 + [1e9]) == [None] * 51


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with group_of_one(tmp_path_factory.mktemp("group")):
        yield process_group.start()


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_spike_is_said_in_one_line_with_step_loss_median_and_the_largest_samples(ranks, capsys, action):
    guard = LossGuard(SpikeConfig(action=action))
    judged(guard, [0.5] * 50)
    values = [float(value) for value in range(10)]
    random.Random(0).shuffle(values)
    seen = [(f"sample-{value:g}", torch.tensor(value)) for value in values]
    if action == "stop":
        with pytest.raises(BadInput) as stopped:
            guard.check(51, 4.5, seen, ranks)
        assert stopped.value.agreed
        line = str(stopped.value)
        assert "train.spike.ratio than 5 or train.spike.action=warn" in line
        assert "schedule.base_lr" in line
    else:
        guard.check(51, 4.5, seen, ranks)
        line = capsys.readouterr().err
        assert line.startswith("warning: ")
        assert line.count("\n") == 1
    assert "at step 51: 4.5, where the median of the steps before is 0.5" in line
    assert "sample-9 (9), sample-8 (8), sample-7 (7), sample-6 (6)" in line
    assert "sample-5" not in line


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (SpikeConfig(ratio=1.0), "train.spike.ratio=1 "),
        (SpikeConfig(ratio=math.nan), "train.spike.ratio=nan"),
        (SpikeConfig(window=19), "train.spike.window=19"),
    ],
)
def test_keys_that_cannot_tell_a_spike_are_refused(config, named):
    with pytest.raises(BadInput, match=named):
        LossGuard(config)
