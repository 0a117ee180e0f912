"""The shipped fine-tuning configs against the released code: which parameter learns how fast, how long, with what."""

import pytest
import torch
from support.helpers import REPOSITORY
from support.parity import groups_by_name, published

from fd_scale.config import load_config
from fd_scale.models.classifier import Classifier
from fd_scale.models.zoo import build_student
from fd_scale.tasks.config import FinetuneJobConfig
from fd_scale.tasks.finetuning import norm_of
from fd_scale.train.optimizer import parameter_groups
from fd_scale.train.schedule import make_schedule

RECIPES = published("fd_recipes")
CONFIGS = {
    "clip_vit_b16_100ep": "fd_finetune__clip_vit_base__img224__100ep",
    "clip_vit_b16": "fd_finetune__clip_vit_base__img224__300ep",
    "clip_vit_l14": "fd_finetune__clip_vit_large__img224__300ep",
    "deit_vit_b16": "fd_finetune__deit_vit_base__img224__300ep",
    "dino_vit_b16": "fd_finetune__dino_vit_base__img224__300ep",
    "esvit_swin_v2_base": "fd_finetune__esvit_swin_base__img224__300ep",
}


def load(name: str) -> FinetuneJobConfig:
    return load_config(FinetuneJobConfig, REPOSITORY / f"configs/finetune/{name}.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_its_published_rate_and_decay(name):
    config, recipe = load(name), RECIPES.facts["recipes"][CONFIGS[name]]
    with torch.device("meta"):
        model = Classifier(build_student(config.student, 224), 1000, norm_of(config))
    name_of = {id(parameter): name.removeprefix("student.") for name, parameter in model.named_parameters()}
    ours = {
        name_of[id(parameter)]: (pytest.approx(group["lr_scale"], rel=1e-12), group["weight_decay"])
        for group in parameter_groups(model, config.optim.weight_decay, config.finetune.layer_decay)
        for parameter in group["params"]
    }
    assert ours == groups_by_name(recipe)


@pytest.mark.parametrize("name", CONFIGS)
def test_rates_length_clipping_and_drop_path_are_the_published_ones(name):
    config, recipe = load(name), RECIPES.facts["recipes"][CONFIGS[name]]
    assert config.train.global_batch == recipe["global_batch"]
    assert config.student.drop_path == recipe["drop_path"]
    assert (config.optim.clip, list(config.optim.betas), config.optim.eps) == (
        recipe["clip"],
        recipe["betas"],
        recipe["eps"],
    )
    schedule = make_schedule(config.schedule, config.train.global_batch, recipe["steps_in_pass"])
    steps = RECIPES.tensors[f"steps/{CONFIGS[name]}"].tolist()
    scales = sorted({group["lr_scale"] for group in recipe["groups"]})
    for scale, rates in zip(scales, RECIPES.tensors[f"lr/{CONFIGS[name]}"].tolist(), strict=True):
        assert [schedule.learning_rate(step, scale) for step in steps] == pytest.approx(rates, rel=1e-12)
