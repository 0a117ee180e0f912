"""What `test_shards.py` runs on every rank: `python -m downstream.program CHECK CONFIG FOLDER`, assertions inside."""

import copy
import os
import signal
import sys
import time
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from mmengine.runner.utils import set_random_seed
from torch import nn

import fd_scale_downstream.semantic  # noqa: F401  registers the data set of the configs
from fd_scale.exits import run_to_exit_code
from fd_scale_downstream import FDRunner, FDStrategy

IMAGES, LEARNING_RATE, CLIP = 4, 0.01, 3.0
TOLERANCE = 2e-5
"""Of the loss, relative. A hundred times of it, of an updated weight, relative to the largest step that any of its
tensor took, beyond one rounding of the weight itself: some steps are only a hundred of these long."""


def draw_alike() -> None:
    """Samplers of proposals draw from these; every part of the batch starts from the same state, on any rank."""
    torch.manual_seed(5)
    np.random.seed(5)


def bf16(config_file: str, folder: str, stage: int) -> None:
    """The loss of a step in bf16 is that of fp32 but for rounding."""
    one_step(config_file, folder, stage, precision="bf16")


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
    begins_as(plain, strategy)
    expected = plain_step(plain, parts, optim_wrapper)

    draw_alike()
    local_samples = samples[ranks.rank * per_rank : (ranks.rank + 1) * per_rank]
    # Two ranks with a part each, or one rank that cuts its batch; the draws begin anew in each part.
    step = strategy.model.module.data_preprocessor.forward
    strategy.model.module.data_preprocessor.forward = lambda data, training: (draw_alike(), step(data, training))[1]
    logged = strategy.model.train_step(pseudo_collate(copy.deepcopy(local_samples)), strategy.optim_wrapper)
    wanted = expected[ranks.rank] if ranks.world > 1 else sum(expected) / 2
    tolerance = TOLERANCE if precision == "fp32" else 0.02
    assert abs(float(logged["loss"]) - wanted) <= tolerance * wanted, (float(logged["loss"]), wanted)
    if precision != "fp32":
        return

    after = strategy._copy_to_evaluate()
    worst = ("", 0.0)
    for name, parameter in plain.named_parameters():
        moved = (parameter - before[name]).abs().max()
        rounding = torch.finfo(torch.float32).eps * parameter.abs()
        difference = ((parameter - after.get_parameter(name)).abs() - rounding).clamp(min=0)
        error = float(difference.max() / moved.clamp(min=1e-9))
        worst = max(worst, (name, error), key=lambda entry: entry[1])
    assert worst[1] <= 100 * TOLERANCE, worst
    if ranks.is_first:
        print(f"loss {wanted:.6f}; largest error of a weight {worst[1]:.2g} of its tensor's step, {worst[0]}")


def begins_as(plain: nn.Module, strategy: FDStrategy) -> None:
    """Masters and buffers are those of the plain model bit for bit, also where the engine computes in bf16."""
    weights = dict(strategy._copy_to_evaluate().named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    buffers = dict(strategy.model.module.named_buffers())
    for name, buffer in plain.named_buffers():
        assert buffers[name].dtype == buffer.dtype, name
        assert torch.equal(buffers[name], buffer), name


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


def validation(config_file: str, folder: str) -> None:
    """Two ranks and three images, of which the sampler gives one twice: the metric of one process all the same."""
    runner = trained(config_file, folder, steps=1)
    metrics = runner.val_loop.run()
    for images in ([0, 1, 2], [0, 1, 2, 0]):
        evaluator = METRICS.build(runner.cfg.val_evaluator)
        evaluator.dataset_meta = runner.val_dataloader.dataset.metainfo
        for index in images:
            data = pseudo_collate([runner.val_dataloader.dataset[index]])
            evaluator.process(data, [sample.to_dict() for sample in runner.model.val_step(data)])
        in_one_process = evaluator.compute_metrics(evaluator.results)
        assert (metrics == in_one_process) == (len(images) == 3), (metrics, in_one_process)


def interrupted(config_file: str, folder: str) -> None:
    """A signal to one rank stops both after a step that is saved; resumed, the run becomes the undisturbed one."""
    whole = trained(config_file, f"{folder}/whole", steps=4)
    first = trained(config_file, f"{folder}/run", steps=4, hook=BeforeSecondStepOnRankOne(ask_to_stop))
    assert first.strategy.steps == first.strategy.newest().step == 2
    assert first.message_hub.get_info("best_score") is None  # the validation of step 2 did not come about
    resumed = trained(config_file, f"{folder}/run", steps=4, resume=True)
    assert resumed.strategy.steps == 4
    for metric in ("mIoU", "aAcc"):
        history, expected = (run.message_hub.get_scalar(f"val/{metric}").data for run in (resumed, whole))
        assert len(expected[0]) == 2
        assert all(np.array_equal(*pair) for pair in zip(history, expected, strict=True)), (history, expected)
    weights, expected = (run.strategy._copy_to_evaluate().state_dict() for run in (resumed, whole))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def hangs(config_file: str, folder: str) -> None:
    trained(config_file, folder, steps=4, hook=BeforeSecondStepOnRankOne(hang_here))


def trained(config_file: str, folder: str, steps: int, resume: bool = False, hook: Hook | None = None) -> FDRunner:
    """Two ranks with an image each, without random augmentation, validated on three images after every second step."""
    config = Config.fromfile(config_file)
    load, annotations, *_, pack = config.train_dataloader.dataset.pipeline
    config.train_dataloader.dataset.pipeline = [load, annotations, {"type": "Resize", "scale": config.crop_size}, pack]
    config.merge_from_dict(
        {
            "work_dir": folder,
            "resume": resume,
            "experiment_name": f"{folder}, resumed {resume}".replace("/", " "),
            "train_dataloader.batch_size": 1,
            "val_dataloader.dataset.indices": 3,
            "train_cfg": {"max_iters": steps, "val_interval": 2},
            "strategy.watchdog_minutes": 0.3,
        }
    )
    runner = FDRunner.from_cfg(config)
    if hook is not None:
        runner.register_hook(hook)
    runner.train()
    return runner


class BeforeSecondStepOnRankOne(Hook):
    def __init__(self, act: Any):
        self.act = act

    def before_train_iter(self, runner: FDRunner, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 1 and runner.rank == 1:
            self.act(runner)


def ask_to_stop(runner: FDRunner) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def hang_here(runner: FDRunner) -> None:
    time.sleep(0.5)
    runner.strategy.watchdog.alive()  # when the other rank has reached the collective too, however busy the machine is
    time.sleep(300)


def main() -> None:
    check, config, folder, *numbers = sys.argv[1:]
    globals()[check](config, folder, *map(int, numbers))


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
