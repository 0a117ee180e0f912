import pytest
import torch
from timm.scheduler import CosineLRScheduler

from fd_scale.errors import BadInput
from fd_scale.train.schedule import ScheduleConfig, make_schedule


def test_the_rate_is_timms_cosine_step_by_step():
    """The released code drives timm's scheduler once a step, with all rates scaled by batch / 512."""
    config = ScheduleConfig(epochs=3, warmup_epochs=1, base_lr=3e-4, warmup_base_lr=5e-7, min_base_lr=5e-6)
    schedule = make_schedule(config, global_batch=2048, steps_in_pass=50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4 * 4)
    timms = CosineLRScheduler(
        optimizer, t_initial=150, lr_min=5e-6 * 4, warmup_lr_init=5e-7 * 4, warmup_t=50, t_in_epochs=False
    )
    for step in range(150):
        timms.step_update(step)
        assert schedule.learning_rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


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
