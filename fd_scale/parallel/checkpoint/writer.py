"""Saving in the background: training waits for the copy to host memory alone.

    step_00000100/
      rank_00000.safetensors   this rank's fragments "<key>/<parameter>", flat; their locations are in the header
      checkpoint.json          format, step, world, optimizer, versions, metrics, and the caller's record
      manifest.json            bytes and sha256 of every other file; written last

The copy is as large as what is saved. A save that is waited for anyway (the last of a run, or any without `background`)
needs none: it writes the training's own tensors, one after another.

One save at a time: the next waits for the one before. Ranks talk about a save over a process group of its own, because
the loop uses the common one meanwhile. No pickle.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fd_scale.errors import BadInput, Expected, Retry
from fd_scale.files import refusing_full_disk
from fd_scale.finite import all_finite
from fd_scale.parallel.checkpoint.reader import BUFFER, FORMAT, RECORD, metrics_by_step
from fd_scale.parallel.checkpoint.retention import Retention
from fd_scale.parallel.checkpoint.state import Piece, TrainingState
from fd_scale.parallel.checkpoint.storage import MANIFEST, Storage
from fd_scale.parallel.checkpoint.tensor_file import TensorFileWriter
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.ranks import Ranks, gather, raise_on_all_ranks
from fd_scale.parallel.run_lease import Leases

log = logging.getLogger("fd_scale")

SLOWEST_WRITE = timedelta(hours=2)
"""For a rank to wait for the slowest of its peers; a peer that dies is noticed at once."""


SIGN_SECONDS = 5.0

Fragment = tuple[Piece, Tensor]
"""Where a run of a flattened tensor belongs, and its value (elements,)."""


class CheckpointWriter:
    """Writer of a training's checkpoints to one storage. Making one is collective."""

    def __init__(
        self,
        state: TrainingState,
        ema: ShardedEma | None,
        storage: Storage,
        retention: Retention,
        ranks: Ranks,
        background: bool = True,
        alive: Callable[[], None] = lambda: None,
        leases: Leases | None = None,
    ):
        """
        Args:
            background: or `save` waits until all is written.
            alive: called every few seconds of waiting for a save, as long as it gets on.
            leases: on this run; nothing is put in place or removed once they are lost.
        """
        self.state, self.ema, self.storage, self.retention, self.ranks = state, ema, storage, retention, ranks
        self.background, self.alive, self.leases = background, alive, leases or Leases()
        self.newest: tuple[int, float] | None = None
        """Step and time of the last one that this writer has put in place."""
        self._group = dist.new_group(backend="gloo", timeout=SLOWEST_WRITE)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._busy, self._written = False, 0  # in the storage's code; bytes that this rank has handed to it
        self._host: dict[str, Tensor] = {}  # reused by every save: allocating gigabytes anew costs more than copying

    @property
    def failed(self) -> bool:
        """Whether the save in the background failed on this rank, or another start has taken over the run.

        Ranks learn it at different times: agree first, and then let `wait` raise it.
        """
        return self._error is not None or self.leases.lost()

    def save(self, step: int, record: dict[str, Any], metrics: dict[str, float], last: bool = False) -> None:
        """Copy what this rank holds and start writing it. Waits for the save before. Collective.

        Args:
            record: JSON-able; rank 0's is kept.
            metrics: of the run now, for `Retention.best`.
            last: no training follows, so nothing is copied, and `save` waits until all is written.

        Raises:
            BadInput: the disk is full, or a tensor holds NaN or infinity; earlier checkpoints are untouched.
            Retry: the storage failed in another way, or another start has taken over the run.
        """
        self.wait()
        began = time.monotonic()
        waits = last or not self.background
        fragments = dict(self._fragments()) if waits else self._copy_to_host()
        content = {
            "format": FORMAT,
            "step": step,
            "world": self.ranks.world,
            "optimizer": self.state.optimizer_name,
            "versions": {name: importlib.metadata.version(name) for name in ("fd-scale", "torch", "deepspeed")},
            "metrics": metrics,
            "record": record,
        }
        scalars = self.state.scalars()
        if not waits:
            log.info("copied step %d for saving in %.2f s", step, time.monotonic() - began)
        self._thread = threading.Thread(target=self._run, args=(step, content, fragments, scalars), daemon=True)
        self._thread.start()
        if waits:
            self.wait()

    def wait(self) -> None:
        """Wait for the save that is under way. Collective.

        Raises what became of it, the same on all ranks.
        """
        if self._thread is not None:
            seen = -1
            while self._thread.is_alive():
                self._thread.join(SIGN_SECONDS)
                # Waiting for slower peers is not a hang of this rank; each rank watches itself.
                if self._written != seen or not self._busy:
                    self.alive()
                seen = self._written
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        with raise_on_all_ranks():
            self.leases.check()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """The exit waits for the last save, unless ranks are lost that it would wait for."""
        if error is None:
            self.wait()
        elif isinstance(error, Expected) and error.agreed:
            with contextlib.suppress(Expected):  # the first error is the one to report
                self.wait()

    def _fragments(self) -> Iterator[tuple[str, Fragment]]:
        """By "<key>/<parameter>". The values are the training's own tensors."""
        for fragments in (self.state.fragments(), self.ema.fragments() if self.ema else ()):
            for key, piece, value in fragments:
                yield f"{key}/{piece.name}", (piece, value)

    def _copy_to_host(self) -> dict[str, Fragment]:
        """The same, with values in `_host`."""
        copies: dict[str, Fragment] = {}
        on_device = False
        for entry, (piece, value) in self._fragments():
            host = self._host.get(entry)
            if host is None or host.shape != value.shape or host.dtype != value.dtype:
                pinned = value.device.type == "cuda"
                host = self._host[entry] = torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned)
            host.copy_(value, non_blocking=True)
            on_device |= value.device.type == "cuda"
            copies[entry] = piece, host
        if on_device:
            torch.cuda.synchronize()
        return copies

    def _run(self, step: int, content: dict, fragments: dict[str, Fragment], scalars: dict[str, Any]) -> None:
        try:
            self._write(step, content, fragments, scalars)
        except BaseException as error:
            self._error = error

    def _write(self, step: int, content: dict, fragments: dict[str, Fragment], scalars: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            with raise_on_all_ranks(self._group), self._storing(step):
                if self.ranks.is_first:
                    self.leases.check()
                    self.storage.prepare(step)
            with raise_on_all_ranks(self._group), self._storing(step):
                self.leases.check()
                written = self._write_rank_file(step, fragments, scalars)
            files = dict(gather(written, self._group))
            with raise_on_all_ranks(self._group), self._storing(step):
                if self.ranks.is_first:
                    files[RECORD] = self._write_text(step, RECORD, json.dumps(content, indent=1))
                    self._write_text(step, MANIFEST, json.dumps({"files": files}, indent=1, sort_keys=True))
                    self.leases.check()
                    self.storage.commit(step)
                    self.leases.check()
                    self._rotate(step)
        except Expected:
            if self.ranks.is_first:
                with contextlib.suppress(Exception):
                    self.leases.check()
                    self.storage.discard(step)
            raise
        self.newest = step, time.time()
        local_bytes = files[_file_name(self.ranks.rank)]["bytes"]
        log.info("saved step %d: %.1f MB of this rank in %.2f s", step, local_bytes / 1e6, time.monotonic() - began)

    @contextlib.contextmanager
    def _storing(self, step: int) -> Iterator[None]:
        """Turn failing writes into the exit contract's two cases: a full disk is the user's, the rest may pass."""
        self._busy = True
        where = self.storage.where(step)
        full = (
            f"no space left for {where}; earlier checkpoints are whole: free space there and start the same command "
            f"again, it resumes from the newest"
        )
        try:
            with refusing_full_disk(full):
                yield
        except OSError as error:
            raise Retry(f"writing {where} failed: {error}") from error
        finally:
            self._busy = False

    def _write_rank_file(
        self, step: int, fragments: dict[str, Fragment], scalars: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        name = _file_name(self.ranks.rank)
        metadata = {
            "places": json.dumps({entry: [piece.start, *piece.shape] for entry, (piece, _) in fragments.items()}),
            "scalars": json.dumps(scalars),
        }
        plan = {entry: (value.dtype, tuple(value.shape)) for entry, (_, value) in fragments.items()}
        with self.storage.create(step, name) as file:
            writer = TensorFileWriter(file, plan, metadata)
            for entry, (_, value) in fragments.items():
                on_host = value.cpu()  # the tensor itself where it lies there
                self._refuse_not_finite(step, entry, on_host)
                writer.write(entry, on_host)
                self._written += on_host.nbytes
        return name, {"bytes": writer.bytes, "sha256": writer.finish()}

    def _refuse_not_finite(self, step: int, entry: str, value: Tensor) -> None:
        """Such weights can never be trained on, and a checkpoint of them would push out one that is whole.

        Here and not in the loop: the thread reads every number anyway, its ranks agree before anything is put in place,
        and training does not wait for it.
        """
        key, name = entry.split("/", 1)
        if key != BUFFER and not all_finite(value):
            raise BadInput(
                f"{key} of {name} holds NaN or infinity at step {step}, which is not saved; earlier checkpoints are "
                f"untouched: go on from there with a lower schedule.base_lr (start.fork_from), or start again"
            )

    def _write_text(self, step: int, name: str, text: str) -> dict[str, Any]:
        content = text.encode()
        with self.storage.create(step, name) as file:
            file.write(content)
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def _rotate(self, newest: int) -> None:
        # Later steps are damaged ones that resuming passed by: counted as newest, they would push out the whole ones.
        metrics = {step: values for step, values in metrics_by_step(self.storage).items() if step <= newest}
        for step in metrics.keys() - self.retention.kept(metrics):
            self.storage.remove(step)


def _file_name(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"
