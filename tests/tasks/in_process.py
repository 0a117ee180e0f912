"""Jobs in the process of the tests, as one rank: a fraction of the time of a process of their own."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from support.helpers import REPOSITORY

from fd_scale.config import load_config, resolved, shipped
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.deepspeed_config import read_json
from fd_scale.tasks.config import FinetuneJobConfig
from fd_scale.tasks.finetuning import finetune


@contextlib.contextmanager
def group_of_one(folder: Path) -> Iterator[None]:
    """A process group of one, in this process, which is afterwards as it was."""
    environment = dict(os.environ)
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update(given)
    dist.init_process_group("gloo", init_method=f"file://{folder}/it", rank=0, world_size=1)
    try:
        yield
    finally:
        process_group.finish()
        process_group._control = None
        _forget_groups()
        os.environ.clear()
        os.environ.update(environment)


def _forget_groups() -> None:
    """DeepSpeed keeps the first group of a process for ever, and does not ask whether it is still there."""
    groups = sys.modules.get("deepspeed.utils.groups")
    for name in vars(groups) if groups else ():
        if name.startswith("_") and name.endswith("_GROUP"):
            setattr(groups, name, None)


@contextlib.contextmanager
def _process_as_before() -> Iterator[None]:
    """A job takes three signals for itself, and DeepSpeed a function of torch; both may, in a process of their own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    linear = torch.nn.functional.linear
    try:
        yield
    finally:
        torch.nn.functional.linear = linear
        for number, handler in handlers.items():
            signal.signal(number, handler)


def finetuned(folder: Path, train: str, *more: str) -> Path:
    """A run of two steps in this process."""
    arguments = [f"run.folder={folder}", f"data.train={train}", "data.view.image_size=32", "data.workers=0"]
    arguments += ["train.global_batch=8", "train.micro_batch=8", "schedule.steps=2", "schedule.warmup_steps=0"]
    arguments += ["run.evaluate_every=2", "finetune.batch=8", *more]
    config = load_config(FinetuneJobConfig, REPOSITORY / "configs/finetune/small.yaml", arguments)
    ranks = process_group.start()
    with _process_as_before():
        return finetune(config, resolved(config), read_json(shipped(config.parallel.deepspeed)), ranks)
