"""Measure the data path beside torchvision's ImageFolder + PIL, in one run, on the same images and processes.

Prints images/s of both and their ratio, the time to the first batch at the start and at 95 % of an epoch and their
ratio, and the memory of this process and its workers over many batches. Both sides crop, resize and flip to uint8;
neither normalises. Each figure is the median of the repeats, which take turns.

    python tools/bench_data.py                          # crops of the photographs that installed packages carry
    python tools/bench_data.py --images imagenet/train --workers 8 --batches 200
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, ViewConfig
from fd_scale.data.loader import TrainingData
from fd_scale.data.packing.pack import pack
from fd_scale.demo.photos import photographs, write_crops

MIB = 2**20


def ours(shards: Path, options: argparse.Namespace, first: int = 0, steps: int = 10**9) -> Iterator[torch.Tensor]:
    config = DataConfig(str(shards), ViewConfig(options.size), workers=options.workers)
    plan = BatchPlan(options.batch, options.batch, world=1)
    for batch in TrainingData(config, seed=0).micro_batches(range(first, first + steps), 0, plan):
        yield batch.images


def torchvisions(images: Path, options: argparse.Namespace) -> Iterator[torch.Tensor]:
    view = transforms.Compose(
        [transforms.RandomResizedCrop(options.size), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    dataset = ImageFolder(str(images), view)
    while True:
        yield from (x for x, _ in DataLoader(dataset, options.batch, True, num_workers=options.workers, drop_last=True))


def rate(batches: Iterator[torch.Tensor], options: argparse.Namespace) -> float:
    """Measure the images a second after the first batch, which pays for starting the workers."""
    next(batches)
    began = time.perf_counter()
    count = sum(len(images) for images in islice(batches, options.batches))
    return count / (time.perf_counter() - began)


def first_batch_seconds(make: Callable[[], Iterator[torch.Tensor]]) -> float:
    began = time.perf_counter()
    next(make())
    return time.perf_counter() - began


def memory_mib() -> float:
    """Measure the unshared memory of this process and its workers."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().uss for member in family) / MIB


def alternate(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """Return the medians of measures that take turns."""
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="class folders of images (default: crops of packaged photographs)")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="counted in each repeat")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-batches", type=int, default=10_000)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = options.images
        if images is None:
            write_crops(photographs(None), folder / "crops", count=1000, size=400)
            images = folder / "crops" / "train"
        manifest = pack(images, folder / "shards", shard_samples=250)
        mean_kb = sum(shard.bytes for shard in manifest.shards) / manifest.samples / 1024
        print(f"{manifest.samples} images of {mean_kb:.0f} KiB, view {options.size}, {options.workers} workers")
        shards = folder / "shards"

        fast, slow = alternate(
            options.repeats,
            lambda: rate(ours(shards, options), options),
            lambda: rate(torchvisions(images, options), options),
        )
        print(f"images/s: fd_scale {fast:.0f}, ImageFolder + PIL {slow:.0f}, ratio {fast / slow:.2f}")

        late = int(0.95 * (manifest.samples // options.batch))
        at_start, at_end = alternate(
            options.repeats,
            lambda: first_batch_seconds(lambda: ours(shards, options)),
            lambda: first_batch_seconds(lambda: ours(shards, options, late)),
        )
        print(f"first batch: {at_start:.3f} s at 0 %, {at_end:.3f} s at 95 %, ratio {at_end / at_start:.2f}")

        options.size, options.batch = 32, 4
        marks = {options.memory_batches // 10 * tenth for tenth in (1, 5, 10)}
        for number, _ in enumerate(ours(shards, options, steps=options.memory_batches + 1)):
            if number in marks:
                print(f"memory after {number} batches: {memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
