"""Checkpoints: written aside, hashed, put in place by one rename. No pickle.

    step_00000100/
      rank_00000.safetensors   this rank's fragments, "<state>/<parameter>"; where each belongs is in the header
      checkpoint.json          format, step, states, optimizer scalars, whatever the caller adds
      manifest.json            bytes and sha256 of every other file; written last

Fragments carry their place in the whole tensor, so a reader needs not know how many ranks wrote them. The folder must
be one that all ranks see. Left to a later change: asynchronous writing, remote storage, EMA.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fd_scale.errors import BadInput, Retry
from fd_scale.parallel import fragments as pieces
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint_reader import CheckpointReader, damage, sha256
from fd_scale.parallel.ranks import Ranks, together

FORMAT = 1


def save_checkpoint(engine: Any, folder: Path, step: int, record: dict[str, Any], ranks: Ranks, keep: int = 2) -> Path:
    """Write `folder/step_XXXXXXXX` and remove all but the newest `keep`. Collective.

    Raises:
        BadInput: the disk is full; earlier checkpoints are untouched.
        Retry: the storage failed in another way.
    """
    final = folder / f"step_{step:08d}"
    aside = folder / f".step_{step:08d}.partial"
    try:
        with together(), _storage_errors(folder):
            if ranks.is_first:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        with together(), _storage_errors(folder):
            written = _write_rank_file(engine, aside, ranks)
        files = dict(process_group.gather(written))
        with together(), _storage_errors(folder):
            if ranks.is_first:
                _write_records(engine, aside, step, record, ranks, files)
                shutil.rmtree(final, ignore_errors=True)  # only ever a damaged one: training passed it by
                os.rename(aside, final)
                _sync_folder(folder)
                _rotate(folder, keep)
    except (BadInput, Retry):
        if ranks.is_first:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a line for every newer one that is not. Reads and hashes files."""
    warnings: list[str] = []
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        problem = damage(candidate)
        if problem is None:
            return candidate, warnings
        warnings.append(problem)
    return None, warnings


def load_checkpoint(engine: Any, path: Path) -> int:
    """Put the checkpoint's weights and optimizer states into a fresh engine. Collective.

    Returns:
        The optimizer steps that it holds.

    Raises:
        BadInput: the checkpoint is of another model; the line names the first difference.
    """
    reader = CheckpointReader(path)
    with together():
        _check_same_parameters(engine, reader)
    pieces.create_optimizer_states(engine, reader.states, reader.scalars)
    for fragment, parameter in pieces.local_fragments(engine):
        for key in (pieces.MASTER, *reader.states):
            value = reader.read(fragment.name, key, fragment.start, fragment.elements)
            pieces.write_fragment(engine, parameter, key, value)

    def whole(name: str) -> Tensor:
        return reader.read(name, pieces.MASTER)

    pieces.refresh_whole_parameters(engine, whole)
    process_group.barrier()
    return reader.step


def _write_rank_file(engine: Any, folder: Path, ranks: Ranks) -> tuple[str, dict[str, Any]]:
    states, _ = pieces.optimizer_state_keys(engine)
    tensors: dict[str, Tensor] = {}
    places: dict[str, dict] = {}
    for fragment, parameter in pieces.local_fragments(engine):
        places[fragment.name] = {"shape": fragment.shape, "start": fragment.start, "elements": fragment.elements}
        for key in (pieces.MASTER, *states):
            tensors[f"{key}/{fragment.name}"] = pieces.read_fragment(engine, parameter, key, fragment.elements)
    path = folder / f"rank_{ranks.rank:05d}.safetensors"
    save_file(tensors, path, metadata={"fragments": json.dumps(places)})
    _sync_file(path)
    return path.name, {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_records(
    engine: Any, folder: Path, step: int, record: dict[str, Any], ranks: Ranks, files: dict[str, Any]
) -> None:
    states, scalars = pieces.optimizer_state_keys(engine)
    content = {
        "format": FORMAT,
        "step": step,
        "world": ranks.world,
        "states": states,
        "scalars": scalars,
        "record": record,
    }
    path = folder / "checkpoint.json"
    _write_text(path, json.dumps(content, indent=1))
    files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    _write_text(folder / "manifest.json", json.dumps({"files": files}, indent=1, sort_keys=True))
    _sync_folder(folder)


def _check_same_parameters(engine: Any, reader: CheckpointReader) -> None:
    from fd_scale.parallel.engine import full_shape

    model = {name: tuple(full_shape(p)) for name, p in engine.module.named_parameters() if p.requires_grad}
    for name in sorted(model.keys() | reader.shapes.keys()):
        ours, theirs = model.get(name), reader.shapes.get(name)
        if ours != theirs:
            raise BadInput(
                f"{reader.path} is of another model: {name} is {theirs or 'absent'} there and {ours or 'absent'} in "
                f"this run's model; give another run.folder, or the config that the checkpoint was made with"
            )


def _rotate(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Turn failing writes into the exit contract's two cases: a full disk is the user's, the rest may pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error):
            raise BadInput(
                f"no space left for a checkpoint in {folder}; earlier checkpoints are whole: free space there and "
                f"start the same command again, it resumes from the newest"
            ) from None
        raise Retry(f"writing a checkpoint to {folder} failed: {error}") from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
    _sync_file(path)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
