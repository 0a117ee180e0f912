"""Shipped configurations of published rows against the configurations that were released."""

import pytest
from support.helpers import REPOSITORY
from support.parity import published

from fd_scale.config import load_config
from fd_scale.tasks.config import DistillConfig

RECIPES = published("fd_recipes").facts["recipes"]
SHIPPED = {
    "clip_vit_b16.yaml": "fd_pretrain__clip_vit_base__img224__300ep",
    "clip_vit_b16_100ep.yaml": "fd_pretrain__clip_vit_base__img224__100ep",
    "clip_vit_l14.yaml": "fd_pretrain__clip_vit_large__img224__300ep",
    "deit_vit_b16.yaml": "fd_pretrain__deit_vit_base__img224__300ep",
    "dino_vit_b16.yaml": "fd_pretrain__dino_vit_base__img224__300ep",
    "esvit_swin_v2_base.yaml": "fd_pretrain__esvit_swin_base__img224__300ep",
}


@pytest.mark.parametrize("file", SHIPPED)
def test_a_shipped_recipe_is_the_released_one(file):
    config = load_config(DistillConfig, REPOSITORY / "configs/distill" / file, ())
    released = RECIPES[SHIPPED[file]]
    ours = {
        **{key: getattr(config.schedule, key) for key in ("epochs", "warmup_epochs", "base_lr", "warmup_base_lr")},
        "min_base_lr": config.schedule.min_base_lr,
        "global_batch": config.train.global_batch,
        "weight_decay": config.optim.weight_decay,
        "betas": list(config.optim.betas),
        "eps": config.optim.eps,
        "clip": config.optim.clip,
        "drop_path": config.student.drop_path,
        "image_size": config.data.view.image_size,
        "crop_scale": list(config.data.view.crop_scale),
    }
    assert ours == {key: released[key] for key in ours}
