"""The ways to save and load that are compared, each with the times that a save took."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Shard, init_device_mesh

from fd_scale.parallel.checkpoint.loader import find_whole, load_checkpoint
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.retention import Retention
from fd_scale.parallel.checkpoint.state import TrainingState
from fd_scale.parallel.checkpoint.storage import LocalStorage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.ranks import Ranks
from tools.bench_checkpoint.measuring import files_of, timed


class Ours:
    """Our checkpoints.

    The first save allocates host memory, which the following ones reuse; `save` is a following one.
    """

    name = "fd_scale"

    def __init__(self, engine: Any, state: TrainingState, ranks: Ranks):
        self.state, self.ranks = state, ranks

    def save(self, folder: Path) -> tuple[float, float]:
        storage = LocalStorage(folder)
        with CheckpointWriter(self.state, None, storage, Retention(last=1), self.ranks) as writer:
            writer.save(1, {}, {})
            writer.wait()
            with timed() as wait, timed() as durable:
                writer.save(2, {}, {})
                wait.stop()
                writer.wait()
        return wait.seconds, durable.seconds

    def load(self, folder: Path) -> None:
        storage = LocalStorage(folder)
        step, problems = find_whole(storage, self.ranks)
        if step is None:
            raise RuntimeError(f"refused: {problems[0]}")
        load_checkpoint(self.state, None, CheckpointReader(storage, step))


class DeepSpeed:
    name = "DeepSpeed"

    def __init__(self, engine: Any, state: TrainingState, ranks: Ranks):
        self.engine, self.ranks = engine, ranks

    def save(self, folder: Path) -> tuple[float, float]:
        with timed() as wait, timed() as durable:
            self.engine.save_checkpoint(str(folder), tag="it")
            wait.stop()
            for path in files_of(folder)[self.ranks.rank :: self.ranks.world]:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        return wait.seconds, durable.seconds

    def load(self, folder: Path) -> None:
        if self.engine.load_checkpoint(str(folder), tag="it")[0] is None:
            raise RuntimeError("refused: load_checkpoint returned None")


class Dcp:
    name = "DCP save"

    def __init__(self, engine: Any, state: TrainingState, ranks: Ranks):
        self.state, self.mesh = state, init_device_mesh("cpu", (ranks.world,))

    def content(self) -> dict[str, Any]:
        """State that DCP saves and writes into when it loads.

        ZeRO-3 cuts a flattened parameter as `Shard(0)` does, so these are views.
        """
        found: dict[str, Any] = {}
        for key, piece, value in self.state.fragments():
            shape = torch.Size([torch.Size(piece.shape).numel()])
            sharded = partial(DTensor.from_local, device_mesh=self.mesh, placements=[Shard(0)], run_check=False)
            found[f"{key}/{piece.name}"] = sharded(value, shape=shape, stride=(1,))
        return found

    def save(self, folder: Path) -> tuple[float, float]:
        with timed() as durable:
            dcp.save(self.content(), checkpoint_id=folder)
        return durable.seconds, durable.seconds

    def load(self, folder: Path) -> None:
        dcp.load(self.content(), checkpoint_id=folder)


class AsyncDcp(Dcp):
    """DCP in the background, with plain tensors under names of the rank's own, which no other number of ranks can read.

    Its staging fails for sharded tensors whose local part is a view into a larger one, as ZeRO's are (torch 2.11:
    "Attempted to call copy_() on an invalid python storage").
    """

    name = "DCP async_save"

    def content(self) -> dict[str, Any]:
        rank = dist.get_rank()
        return {f"{rank}/{key}/{piece.name}": value for key, piece, value in self.state.fragments()}

    def save(self, folder: Path) -> tuple[float, float]:
        with timed() as wait, timed() as durable:
            future: Any = dcp.async_save(self.content(), checkpoint_id=folder)
            wait.stop()
            future.result()
        return wait.seconds, durable.seconds


SYSTEMS: tuple[Any, ...] = (Ours, DeepSpeed, Dcp, AsyncDcp)
