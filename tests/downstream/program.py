"""What `test_shards.py` runs on every rank: `python -m downstream.program CHECK CONFIG FOLDER`, assertions inside."""

import copy
import sys

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.utils import set_random_seed
from torch import nn

import fd_scale_downstream.semantic  # noqa: F401  registers the data set of the configs
from fd_scale.exits import run_to_exit_code
from fd_scale_downstream import FDStrategy

IMAGES, LEARNING_RATE, CLIP = 4, 0.01, 3.0
TOLERANCE = 2e-5
"""Of the loss, relative; of an updated weight, relative to the largest step that any of its tensor took."""


def draw_alike() -> None:
    """Samplers of proposals draw from these; every part of the batch starts from the same state, on any rank."""
    torch.manual_seed(5)
    np.random.seed(5)


def bf16(config_file: str, folder: str) -> None:
    """The loss of a step in bf16 is that of fp32 but for rounding."""
    one_step(config_file, folder, 3, precision="bf16")


def one_step(config_file: str, folder: str, stage: int, accumulation: int = 1, precision: str = "fp32") -> None:
    """A step in shards equals the step of one process without DeepSpeed on the same parts of the batch."""
    config = Config.fromfile(config_file)
    init_default_scope(config.default_scope)
    optim_wrapper = {
        **config.optim_wrapper,
        "optimizer": {"type": "SGD", "lr": LEARNING_RATE, "momentum": 0.9, "weight_decay": 0.0},
        "clip_grad": {"max_norm": CLIP},
    }
    strategy = FDStrategy(
        work_dir=folder,
        parallel={"deepspeed": f"deepspeed_configs/zero{stage}.json", "precision": precision, "recompute": "all"},
        accumulation=accumulation,
        env_kwargs={"randomness": {"seed": 0}},
    )
    ranks = strategy.ranks
    per_rank = IMAGES // ranks.world
    strategy.prepare(
        copy.deepcopy(config.model),
        optim_wrapper=copy.deepcopy(optim_wrapper),
        dispatch_kwargs={"train_micro_batch_size_per_gpu": per_rank},
    )
    draw_alike()
    dataset = DATASETS.build(config.train_dataloader.dataset)
    samples = [dataset[index] for index in range(IMAGES)]
    parts = [samples[start : start + IMAGES // 2] for start in range(0, IMAGES, IMAGES // 2)]

    set_random_seed(0)
    plain = MODELS.build(copy.deepcopy(config.model))
    plain.init_weights()
    before = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    expected = plain_step(plain, parts, optim_wrapper)

    draw_alike()
    own = samples[ranks.rank * per_rank : (ranks.rank + 1) * per_rank]
    # Two ranks with a part each, or one rank that cuts its batch; the draws begin anew in each part.
    step = strategy.model.module.data_preprocessor.forward
    strategy.model.module.data_preprocessor.forward = lambda data, training: (draw_alike(), step(data, training))[1]
    logged = strategy.model.train_step(pseudo_collate(copy.deepcopy(own)), strategy.optim_wrapper)
    wanted = expected[ranks.rank] if ranks.world > 1 else sum(expected) / 2
    tolerance = TOLERANCE if precision == "fp32" else 0.02
    assert abs(float(logged["loss"]) - wanted) <= tolerance * wanted, (float(logged["loss"]), wanted)
    if precision != "fp32":
        return

    after = strategy._copy_to_evaluate()
    worst = ("", 0.0)
    for name, parameter in plain.named_parameters():
        moved = (parameter - before[name]).abs().max()
        error = float((parameter - after.get_parameter(name)).abs().max() / moved.clamp(min=1e-9))
        worst = max(worst, (name, error), key=lambda entry: entry[1])
    assert worst[1] <= 100 * TOLERANCE, worst
    if ranks.is_first:
        print(f"loss {wanted:.6f}; largest error of a weight {worst[1]:.2g} of its tensor's step, {worst[0]}")


def plain_step(model: nn.Module, parts: list[list], optim_wrapper: dict) -> list[float]:
    """The losses of the parts; the model has taken one step on their mean."""
    optimizer = build_optim_wrapper(model, copy.deepcopy(optim_wrapper)).optimizer
    losses = []
    for part in parts:
        draw_alike()
        data = model.data_preprocessor(pseudo_collate(copy.deepcopy(part)), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        (loss / len(parts)).backward()
        losses.append(loss.item())
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return losses


def main() -> None:
    check, config, folder, *numbers = sys.argv[1:]
    globals()[check](config, folder, *map(int, numbers))


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
