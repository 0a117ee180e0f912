"""What the programs beside it share: saving at once, what a checkpoint holds, and a plain model with its step."""

from functools import partial

import torch
from torch import Tensor, nn

from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.retention import Retention
from fd_scale.parallel.checkpoint.state import TrainingState
from fd_scale.parallel.checkpoint.storage import Storage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.ranks import Ranks

SGD = partial(torch.optim.SGD, lr=0.0, momentum=0.9)

Content = dict[tuple[str, str], Tensor]


def save(
    state: TrainingState, storage: Storage, step: int, ranks: Ranks, ema: ShardedEma | None = None, record=None
) -> None:
    with CheckpointWriter(state, ema, storage, Retention(), ranks) as writer:
        writer.save(step, record or {}, {})


def content(reader: CheckpointReader) -> Content:
    return {(key, name): reader.read(name, key) for key in reader.keys for name in reader.names(key)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def norms(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 7), nn.Linear(7, 2)
    )
    model[5].requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
    torch.manual_seed(step)
    loss = model(torch.randn(4, 3, 8, 8)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
