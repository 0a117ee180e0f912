"""A config of `downstream/configs` made small enough to run here, by one rule that leaves every other key alone.

Fewer images, three iterations and half the image scale. The backbone keeps its name: those that are shipped are small
already. Programs that are started import this module by the `custom_imports` of what it writes.
"""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

STEPS = 3
TRAINED_ON, VALIDATED_ON = 6, 2
"""Images."""


@HOOKS.register_module()
class DrawsOfTheIteration(Hook):
    """Augmentation and the samplers of boxes draw from global generators, which no checkpoint holds
    (docs/decisions.md). Here each iteration begins with its own state, on each rank, in a resumed run as in any.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        self._draw_for(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._draw_for(runner, runner.iter + 1)  # its batch is read before the hooks of the next iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._draw_for(runner)

    def _draw_for(self, runner: Runner, iteration: int | None = None) -> None:
        state = 1000 * (runner.iter if iteration is None else iteration) + runner.rank
        np.random.seed(state)
        torch.manual_seed(state)


def smaller(path: Path, folder: Path) -> Path:
    """Write the small form of a config to `folder`, under its own name; COCO_MINI and its like are read now."""
    config = Config.fromfile(path)
    for loader, images in (("train", TRAINED_ON), ("val", VALIDATED_ON), ("test", VALIDATED_ON)):
        dataset = config[f"{loader}_dataloader"].dataset
        dataset.indices = images
        for transform in dataset.pipeline:
            for key in ("scale", "crop_size"):
                if key in transform:
                    transform[key] = halved(transform[key])
    if config.model.data_preprocessor.get("size"):
        config.model.data_preprocessor.size = halved(config.model.data_preprocessor.size)
    config.train_cfg.max_iters = config.train_cfg.val_interval = STEPS
    config.default_hooks.checkpoint.interval = config.default_hooks.logger.interval = 1
    config.log_processor.window_size = 1  # of what is logged: not the mean of some iterations
    if "strategy" in config:
        config.strategy.keep = {"last": STEPS}
    config.custom_imports.imports.append("downstream.smaller")
    config.custom_hooks = [{"type": "DrawsOfTheIteration"}]
    config.dump(folder / path.name)
    return folder / path.name


def halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] // 2, size[1] // 2)
