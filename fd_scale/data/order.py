"""Which sample has which position: a pure function of (seed, position), whatever machine, rank or worker asks.

A data set is cut into P canonical streams. Each pass, its shards are put into a random order and laid end to end; a
stream is an equal part of that line, shuffled by groups of neighbouring shards. Sample l of the endless sequence of
that data set comes from stream l mod P. So
  - no sample comes twice within a pass; fewer than P, other ones each time, are left out of it;
  - streams that share a shard are neighbours, and ranks take neighbouring streams: a host reads about its share of the
    shards, group by group;
  - any position is found without walking there.
Of several data sets, which one has a position is drawn from shuffled blocks in which each has its exact share.

The positions of a global batch are sorted by stream and cut evenly over the ranks: a rank takes whole streams, and
where ranks do not divide the streams, the stream at a border is split between two neighbours. All ranks always have the
same number of samples.

Letters: G positions in a global batch, i position, g = step * G + i, l count within one data set.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fd_scale.data.config import OrderConfig
from fd_scale.errors import BadInput

BLOCK = 1000  # positions over which a mixture has its exact shares


class Draw(NamedTuple):
    """One position of a global batch, and the sample at it."""

    dataset: int
    sample: int
    """Within the data set, counted shard by shard."""
    step: int
    position: int


class DatasetOrder:
    """Endless sequence of one data set's samples."""

    def __init__(self, shard_samples: Sequence[int], seed: int, config: OrderConfig):
        """`shard_samples`: samples of each shard, in the manifest's order. `seed`: of this data set."""
        self.sizes = np.asarray(shard_samples, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])  # number of each shard's first sample
        self.samples = int(self.first[-1])
        # A stream much shorter than this would leave out a good part of a small data set in each pass.
        self.streams = max(1, min(config.streams, self.samples // 64))
        self.stream_samples = self.samples // self.streams
        self.group_shards = config.group_shards
        self.seed = seed
        self._line = lru_cache(maxsize=2)(self._make_line)
        self._group = lru_cache(maxsize=4 * self.streams)(self._make_group)

    @property
    def pass_samples(self) -> int:
        """Number of samples drawn in one pass; fewer than `streams` are left out."""
        return self.stream_samples * self.streams

    def sample(self, count: int) -> int:
        """Find the sample at position `count` of the sequence."""
        data_pass, within = divmod(count, self.pass_samples)
        position, stream = divmod(within, self.streams)
        starts = self._line(data_pass)[1][stream]
        group = int(np.searchsorted(starts, position, side="right")) - 1
        return int(self._group(data_pass, stream, group)[position - starts[group]])

    def _make_line(self, data_pass: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """(order of the shards, for each stream the positions at which its groups start and, last, its end)."""
        order = np.random.default_rng((self.seed, data_pass)).permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[order])
        starts = []
        for stream in range(self.streams):
            first, last = self._stretch(stream)
            borders = ends[np.searchsorted(ends, first, side="right") : np.searchsorted(ends, last, side="left")]
            starts.append(
                np.concatenate([[0], borders[self.group_shards - 1 :: self.group_shards] - first, [last - first]])
            )
        return order, starts

    def _make_group(self, data_pass: int, stream: int, group: int) -> np.ndarray:
        """The samples of one group of one stream, shuffled."""
        order, starts = self._line(data_pass)
        first, last = self._stretch(stream)[0] + starts[stream][group : group + 2]
        ends = np.cumsum(self.sizes[order])
        positions = np.arange(first, last)
        at = np.searchsorted(ends, positions, side="right")  # which shard of the line
        shards = order[at]
        numbers = self.first[shards] + positions - (ends[at] - self.sizes[shards])
        return np.random.default_rng((self.seed, data_pass, stream, group)).permutation(numbers)

    def _stretch(self, stream: int) -> tuple[int, int]:
        """Where a stream starts and ends on the line of all samples."""
        return stream * self.samples // self.streams, (stream + 1) * self.samples // self.streams


class Order:
    """Order of samples in a run: of one data set, or of a weighted mixture."""

    def __init__(
        self, datasets: Sequence[Sequence[int]], seed: int, config: OrderConfig, weights: Sequence[float] | None = None
    ):
        """`datasets`: for each, the samples of its shards. `weights`: shares of the positions, equal by default."""
        self.datasets = [DatasetOrder(shards, _subseed(seed, number), config) for number, shards in enumerate(datasets)]
        self.seed = seed
        self.shares = _exact_shares(weights or [1.0] * len(datasets))  # of BLOCK positions
        self._labels = lru_cache(maxsize=4)(self._make_labels)
        self._positions = lru_cache(maxsize=4)(self._draw_positions)

    @property
    def pass_samples(self) -> int:
        """Number of positions in an epoch of the schedule: as many as all data sets have samples in a pass."""
        return sum(dataset.pass_samples for dataset in self.datasets)

    def steps_in_pass(self, global_batch: int) -> int:
        """Number of whole global batches in one pass.

        Raises:
            BadInput: not even one.
        """
        if self.pass_samples < global_batch:
            raise BadInput(
                f"the data holds {self.pass_samples} samples, fewer than one global batch of {global_batch}; "
                f"lower train.global_batch or pack more images"
            )
        return self.pass_samples // global_batch

    def micro_batch(
        self, step: int, micro_step: int, rank: int, *, global_batch: int, micro_batch: int, world: int
    ) -> list[Draw]:
        """List what one rank computes in one micro-batch of one step."""
        positions = self._positions(step, global_batch)
        first = rank * (global_batch // world) + micro_step * micro_batch
        return [self._draw(step, *position) for position in positions[first : first + micro_batch]]

    def _draw_positions(self, step: int, global_batch: int) -> list[tuple[int, int, int]]:
        """(i, data set, l) of a global batch, by stream."""
        positions = []
        for position in range(global_batch):
            dataset, count = self._locate(step * global_batch + position)
            streams = self.datasets[dataset].streams
            positions.append((count % streams / streams, dataset, position, count))
        return [(position, dataset, count) for _, dataset, position, count in sorted(positions)]

    def _draw(self, step: int, position: int, dataset: int, count: int) -> Draw:
        return Draw(dataset, self.datasets[dataset].sample(count), step, position)

    def _locate(self, index: int) -> tuple[int, int]:
        """Position g of the run -> (data set, how many of its samples came before)."""
        if len(self.datasets) == 1:
            return 0, index
        block, within = divmod(index, BLOCK)
        labels, counts = self._labels(block)
        dataset = int(labels[within])
        return dataset, block * self.shares[dataset] + int(counts[within])

    def _make_labels(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(BLOCK,) the data set at each position of a block, and how many of the same came before it there."""
        labels = np.repeat(np.arange(len(self.shares)), self.shares)
        labels = np.random.default_rng((self.seed, block, len(self.shares))).permutation(labels)
        counts = np.empty(BLOCK, dtype=np.int64)
        for dataset in range(len(self.shares)):
            mine = labels == dataset
            counts[mine] = np.arange(mine.sum())
        return labels, counts


def _exact_shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers that sum to BLOCK, each nearest to its weight (largest remainders)."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * BLOCK
    shares = np.floor(exact).astype(int)
    for dataset in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:
        shares[dataset] += 1
    if shares.min() < 1:
        raise BadInput(f"data.train: weights {list(weights)} give a data set less than 1/{BLOCK} of the samples")
    return shares.tolist()


def _subseed(seed: int, number: int) -> int:
    """Data sets of one run are shuffled independently."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])
