"""Depths of every published fine-tuning recipe against the released code."""

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
from parity import groups_by_name, published

from fd_scale.models.zoo import StudentConfig, build_student
from fd_scale.train.optimizer import parameter_groups
from fd_scale_downstream.layer_decay import depths

RECIPES = published("fd_recipes").facts["recipes"]
STUDENTS = {
    "fd_finetune__clip_vit_base__img224__100ep": StudentConfig("vit_base", position_bias="per_block"),
    "fd_finetune__clip_vit_base__img224__300ep": StudentConfig("vit_base", position_bias="per_block"),
    "fd_finetune__clip_vit_large__img224__300ep": StudentConfig("vit_large", patch_size=14, position_bias="per_block"),
    "fd_finetune__deit_vit_base__img224__300ep": StudentConfig("vit_base", position_bias="per_block"),
    "fd_finetune__dino_vit_base__img224__300ep": StudentConfig("vit_base", position_bias="per_block"),
    "fd_finetune__esvit_swin_base__img224__300ep": StudentConfig("swin_v2_base", window=14),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_rates_fall_with_the_depth_as_published(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = build_student(STUDENTS[name], 224)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decay_of = {name_of[id(p)]: g["weight_decay"] for g in parameter_groups(model, 0.05) for p in g["params"]}
    last = len(model.blocks()) + 1
    ours = {name: (recipe["layer_decay"] ** (last - depth), decay_of[name]) for name, depth in depths(model).items()}
    expected = groups_by_name(recipe)
    # The published ViT has a norm of the pooled patches where ours has one of the tokens.
    expected = {name.replace("fc_norm.", "norm."): g for name, g in expected.items() if not name.startswith("head.")}
    assert ours == expected
