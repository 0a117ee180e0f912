"""Learning rates and parameter groups of every published recipe, against the released code."""

import math

import pytest
import torch
from support.parity import groups_by_name, published

from fd_scale.models.config import StudentConfig
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.train.config import OptimConfig, ScheduleConfig
from fd_scale.train.optimizer import adamw, parameter_groups
from fd_scale.train.schedule import Schedule, make_schedule

RECIPES = published("fd_recipes")
PRETRAIN = {
    "fd_pretrain__clip_vit_base__img224__100ep": StudentConfig("vit_base"),
    "fd_pretrain__clip_vit_base__img224__300ep": StudentConfig("vit_base"),
    "fd_pretrain__clip_vit_large__img224__300ep": StudentConfig("vit_large", patch_size=14),
    "fd_pretrain__deit_vit_base__img224__300ep": StudentConfig("vit_base"),
    "fd_pretrain__dino_vit_base__img224__300ep": StudentConfig("vit_base"),
    "fd_pretrain__esvit_swin_base__img224__300ep": StudentConfig("swin_v2_base", window=14),
}
NAMES = sorted(name.removeprefix("lr/") for name in RECIPES.tensors if name.startswith("lr/"))


def schedule_of(recipe: dict) -> Schedule:
    keys = ("epochs", "warmup_epochs", "base_lr", "warmup_base_lr", "min_base_lr")
    config = ScheduleConfig(**{key: recipe[key] for key in keys})
    return make_schedule(config, recipe["global_batch"], recipe["steps_in_pass"])


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates_of_all_groups_are_the_published_ones(name):
    recipe = RECIPES.facts["recipes"][name]
    schedule = schedule_of(recipe)
    scales = sorted({group["lr_scale"] for group in recipe["groups"]})
    for scale, published_rates in zip(scales, RECIPES.tensors[f"lr/{name}"].tolist(), strict=True):
        rates = [schedule.learning_rate(step, scale) for step in RECIPES.tensors[f"steps/{name}"].tolist()]
        assert rates == pytest.approx(published_rates, rel=1e-12)
    # Those were some steps. This is every step of the undecayed group.
    total = math.fsum(schedule.learning_rate(step) for step in range(schedule.steps))
    assert total == pytest.approx(recipe["sum_of_rates"][-1], rel=1e-11)


@pytest.mark.parametrize("name", PRETRAIN)
def test_the_published_parameters_have_weight_decay(name):
    recipe = RECIPES.facts["recipes"][name]
    with torch.device("meta"):
        model = StudentWithHeads(build_student(PRETRAIN[name], 224), 8)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {
        name_of[id(parameter)]: (1.0, group["weight_decay"])
        for group in parameter_groups(model, OptimConfig().weight_decay)
        for parameter in group["params"]
    }
    expected = {
        name.replace("encoder.", "student.").replace("decoder.0.", "head."): group
        for name, group in groups_by_name(recipe).items()
    }
    assert ours == expected


@pytest.mark.parametrize("name", PRETRAIN)
def test_the_optimizers_settings_are_the_published_ones(name):
    recipe, config = RECIPES.facts["recipes"][name], OptimConfig()
    defaults = adamw(config)([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (list(defaults["betas"]), defaults["eps"]) == (recipe["betas"], recipe["eps"])
    assert config.clip == recipe["clip"]


def test_published_loops_are_one_step_behind():
    """They set a rate after the step of that number, and begin with where the warm-up begins."""
    for name in NAMES:
        recipe = RECIPES.facts["recipes"][name]
        assert recipe["rate_before_the_first_update"] == pytest.approx(schedule_of(recipe).learning_rate(0), rel=1e-12)
