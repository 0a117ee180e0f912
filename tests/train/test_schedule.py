from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from fd_scale.errors import BadInput
from fd_scale.parallel.engine import set_learning_rate
from fd_scale.train.config import ScheduleConfig
from fd_scale.train.schedule import make_schedule


def test_the_rate_is_timms_cosine_step_by_step():
    """The released code drives timm's scheduler once a step, with all rates scaled by batch / 512, and lets the cosine
    begin where the warm-up ends.
    """
    config = ScheduleConfig(epochs=3, warmup_epochs=1, base_lr=3e-4, warmup_base_lr=5e-7, min_base_lr=5e-6)
    schedule = make_schedule(config, global_batch=2048, steps_in_pass=50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4 * 4)
    timms = CosineLRScheduler(
        optimizer,
        t_initial=100,
        lr_min=5e-6 * 4,
        warmup_lr_init=5e-7 * 4,
        warmup_t=50,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step in range(150):
        timms.step_update(step)
        assert schedule.learning_rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_the_rate_rises_to_the_peak_and_falls_to_the_minimum_without_a_jump():
    schedule = make_schedule(ScheduleConfig(steps=1000, warmup_steps=100), 512, steps_in_pass=1)
    rates = [schedule.learning_rate(step) for step in range(1001)]
    assert max(rates) == rates[100] == schedule.peak
    assert rates[0] == schedule.warmup_start
    assert rates[1000] == pytest.approx(schedule.minimum)
    assert max(abs(after - before) for before, after in pairwise(rates)) < schedule.peak / 100


def test_each_group_gets_the_rate_of_its_scale():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    scales = [{}, {"lr_scale": 1.0}, {"lr_scale": 0.25}]
    groups = [{"params": [p], **scale} for p, scale in zip(parameters, scales, strict=True)]
    engine = SimpleNamespace(optimizer=torch.optim.SGD(groups, lr=0.0))
    set_learning_rate(engine, lambda scale: 3 + scale)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [4, 4, 3.25]


def test_lengths_in_passes_and_in_steps_are_the_same_thing():
    in_passes = make_schedule(ScheduleConfig(epochs=2, warmup_epochs=0.5), 512, steps_in_pass=40)
    in_steps = make_schedule(ScheduleConfig(steps=80, warmup_steps=20), 512, steps_in_pass=40)
    assert in_passes == in_steps


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (ScheduleConfig(), "the run has no length; set schedule.epochs or schedule.steps"),
        (ScheduleConfig(epochs=1, steps=5), "schedule.epochs=1 and schedule.steps=5 contradict"),
        (
            ScheduleConfig(steps=5, warmup_steps=1, warmup_epochs=1),
            "schedule.warmup_epochs=1 and",
        ),
        (ScheduleConfig(steps=5, warmup_steps=5), "warm-up of 5 steps does not fit into 5"),
    ],
)
def test_contradictions_are_refused(config, line):
    with pytest.raises(BadInput, match=line):
        make_schedule(config, 512, 10)
