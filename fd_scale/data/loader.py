"""From shards to the micro-batches of one rank, from any step on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fd_scale.data.order import Draw, micro_batch_draws
from fd_scale.data.reader import ShardReader
from fd_scale.data.view import ViewConfig, random_view
from fd_scale.errors import BadInput


@dataclass(frozen=True)
class DataConfig:
    train: str
    """Folder that `fd-scale pack` wrote."""
    view: ViewConfig = ViewConfig()
    workers: int = 4
    """Decoding processes of each rank; 0 decodes in the training process."""


@dataclass(frozen=True)
class Batch:
    images: Tensor
    """(B, 3, H, W) uint8"""
    ids: list[str]
    positions: list[int]
    """Of each image in the global batch."""
    step: int


class ViewDataset(Dataset):
    """`dataset[draw]` is the view that stands at that place, or the reason why there is none."""

    def __init__(self, reader: ShardReader, view: ViewConfig, seed: int):
        self.reader, self.view, self.seed = reader, view, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor | None, str, Draw]:
        sample = self.reader[draw.sample]
        try:
            return random_view(sample.content, self.view, self.seed, draw.step, draw.position), sample.id, draw
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None, sample.id, draw


def micro_batches(
    config: DataConfig,
    reader: ShardReader,
    seed: int,
    steps: range,
    rank: int,
    *,
    global_batch: int,
    micro_batch: int,
    world: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """All micro-batches of `rank` for `steps`, in order.

    Raises:
        BadInput: fewer samples than a global batch; a sample that does not decode, by its id.
    """
    draws = partial(
        micro_batch_draws, len(reader), seed, global_batch=global_batch, micro_batch=micro_batch, world=world
    )
    accumulation = global_batch // (micro_batch * world)
    plan = (draws(step, micro, rank) for step in steps for micro in range(accumulation))
    loader = DataLoader(
        ViewDataset(reader, config.view, seed),
        batch_sampler=_Plan(plan),
        collate_fn=_collate,
        num_workers=config.workers,
        pin_memory=pin_memory,
    )
    for images, ids, places in loader:
        if images is None:
            raise BadInput(f"sample {ids[0]} of {reader.folder} does not decode; pack the data again without it")
        yield Batch(images, ids, [place.position for place in places], places[0].step)


class _Plan:
    """A sampler that can be iterated once: the plan is already a pure function of where we are."""

    def __init__(self, plan: Iterator[list[Draw]]):
        self.plan = plan

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.plan


def _collate(items: list[tuple[Tensor | None, str, Draw]]) -> tuple[Tensor | None, list[str], list[Draw]]:
    # Errors travel as values: an exception would reach the training process with a worker's traceback in its text.
    bad = [sample_id for image, sample_id, _ in items if image is None]
    draws = [draw for _, _, draw in items]
    if bad:
        return None, bad, draws
    return torch.stack([image for image, _, _ in items if image is not None]), [i for _, i, _ in items], draws
