"""An exponential moving average of the weights, sharded like the optimizer: each rank averages the pieces it owns.

Element by element and in fp32 from the masters, so how many ranks there are changes nothing. Buffers are not averaged.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.state import Piece, TrainingState

EMA = "ema"


class ShardedEma:
    def __init__(self, state: TrainingState, decay: float):
        self.state, self.decay = state, decay
        self.restart()

    def restart(self) -> None:
        """Begin the average at the weights as they are."""
        self.average: dict[str, tuple[Piece, Tensor]] = {
            piece.name: (piece, self.state.weight(piece, parameter).float().clone())
            for piece, parameter in self.state.trained()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimizer step `step`, counted from 1.

        The first steps forget faster, or the start would linger.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [self.state.weight(piece, parameter).float() for piece, parameter in self.state.trained()]
        if now:
            get_ema_multi_avg_fn(decay)([average for _, average in self.average.values()], now, 0)

    def fragments(self) -> Iterator[tuple[str, Piece, Tensor]]:
        for piece, value in self.average.values():
            yield EMA, piece, value

    def load(self, reader: CheckpointReader) -> None:
        """Load the average of a checkpoint.

        Raises:
            BadInput: the checkpoint holds no average.
        """
        for piece, value in self.average.values():
            value.copy_(reader.read(piece.name, EMA, piece.start, piece.elements))
