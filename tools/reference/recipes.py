"""Parameter groups and learning rates of every published recipe, by the published code.

Models have the published depth and one channel for each head: names, and which parameters have one dimension, do not
depend on the width. Published runs had 16 GPUs; their scripts multiply all rates by batch / 512 before anything else.
"""

import contextlib
import io
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tools.reference.upstream import Clone

REPOSITORY = "SwinTransformer/Feature-Distillation"
GPUS = 16
IMAGES = 1_281_167  # ImageNet-1K's training images; the last incomplete batch is dropped
SILENT = logging.getLogger("published code")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


def run_recipes(clone: Clone) -> tuple[dict[str, Tensor], dict]:
    """Run all recipes. Returns (learning rates, facts).

    `lr/RECIPE` is (groups of different scale, steps) fp64, its steps `steps/RECIPE`.

    Those are some steps; the facts have the sum over all of them.
    """
    tensors: dict[str, Tensor] = {}
    facts = {}
    for path in sorted((clone.folder / "configs").glob("*/*.yaml")):
        facts[path.stem], rates, steps = run_recipe(clone, path)
        tensors[f"lr/{path.stem}"], tensors[f"steps/{path.stem}"] = rates, steps
    return tensors, {"recipes": facts}


def run_recipe(clone: Clone, path: Path) -> tuple[dict, Tensor, Tensor]:
    pretrain = path.parent.name == "pretrain"
    config = narrow_config(clone, path)
    builder = clone.module("models.build")
    replace_teachers(sys.modules["models.feature_distillation"])
    train = config.TRAIN
    global_batch = config.DATA.BATCH_SIZE * GPUS
    given = {name: getattr(train, name) for name in ("BASE_LR", "WARMUP_LR", "MIN_LR")}
    config.defrost()
    for name, value in given.items():
        train[name] = value * config.DATA.BATCH_SIZE * GPUS / 512.0
    config.freeze()
    with contextlib.redirect_stdout(io.StringIO()):
        model = builder.build_model(config, is_pretrain=pretrain)
    optimizer = clone.module("optimizer").build_optimizer(config, model, SILENT, is_pretrain=pretrain)
    groups = described(model, optimizer)
    steps_in_pass = IMAGES // global_batch
    scheduler = clone.module("lr_scheduler").build_scheduler(config, optimizer, steps_in_pass)
    before = optimizer.param_groups[0]["lr"]
    total = train.EPOCHS * steps_in_pass
    steps = chosen_steps(total, train.WARMUP_EPOCHS * steps_in_pass)
    rates = torch.tensor([rates_after(scheduler, optimizer, step) for step in range(total)], dtype=torch.float64)
    facts = {
        "epochs": train.EPOCHS,
        "warmup_epochs": train.WARMUP_EPOCHS,
        "base_lr": given["BASE_LR"],
        "warmup_base_lr": given["WARMUP_LR"],
        "min_base_lr": given["MIN_LR"],
        "layer_decay": train.LAYER_DECAY,
        "clip": train.CLIP_GRAD,
        "weight_decay": train.WEIGHT_DECAY,
        "drop_path": config.MODEL.DROP_PATH_RATE,
        "image_size": config.DATA.IMG_SIZE,
        "crop_scale": [config.AUG.MIN_SCALE, config.AUG.MAX_SCALE],
        "global_batch": global_batch,
        "steps_in_pass": steps_in_pass,
        "rate_before_the_first_update": before,
        "sum_of_rates": rates.sum(dim=0).tolist(),
        "betas": list(optimizer.defaults["betas"]),
        "eps": optimizer.defaults["eps"],
        "groups": groups,
    }
    return facts, rates[steps].T.contiguous(), torch.tensor(steps)


def narrow_config(clone: Clone, path: Path) -> Any:
    module = clone.module("config")
    with contextlib.redirect_stdout(io.StringIO()):
        config = module.get_config(SimpleNamespace(cfg=str(path), opts=[], local_rank=0))
    config.defrost()
    config.MODEL.VIT.EMBED_DIM = config.MODEL.VIT.NUM_HEADS
    config.MODEL.SWIN.EMBED_DIM = config.MODEL.SWIN.NUM_HEADS[0]
    config.freeze()
    return config


def replace_teachers(module: ModuleType) -> None:
    """Replace loaders that would download: they give a frozen parameter instead; teachers are in no group."""
    teacher = nn.Linear(1, 1)
    teacher.embed_dim = 1  # type: ignore[assignment]
    module.load_clip = lambda *_, **__: (teacher, None)  # type: ignore[attr-defined]
    for name in ("load_dino", "load_deit", "load_esvit"):
        setattr(module, name, lambda *_, **__: teacher)


def described(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {
            "lr": group["lr"],
            "lr_scale": group.get("lr_scale", 1.0),
            "weight_decay": group["weight_decay"],
            "names": [name_of[id(parameter)] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]


def chosen_steps(total: int, warmup: int) -> list[int]:
    """Choose steps: both ends, both sides of the end of the warm-up, and 48 in between."""
    spread = range(0, total, max(total // 48, 1))
    return sorted({0, 1, 2, warmup - 1, warmup, warmup + 1, total - 2, total - 1, *spread})


def rates_after(scheduler: Any, optimizer: torch.optim.Optimizer, step: int) -> list[float]:
    """Rates that the update numbered `step` sets, one for each scale, the smallest scale first."""
    scheduler.step_update(step)
    by_scale = {group.get("lr_scale", 1.0): group["lr"] for group in optimizer.param_groups}
    return [rate for _, rate in sorted(by_scale.items())]
