"""Reading checkpoints without an engine: what is in one, whether it is whole, and any run of any tensor.

Needs no process group and reads only the bytes asked for, so that export streams a model larger than memory.
"""

import errno
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fd_scale.errors import BadInput, Retry
from fd_scale.files import parse_json
from fd_scale.parallel.checkpoint.storage import MANIFEST, Readable, Storage
from fd_scale.parallel.checkpoint.tensor_file import TensorFileReader

FORMAT = 2
RECORD = "checkpoint.json"
WEIGHT = "weight"
BUFFER = "buffer"
_CHUNK = 16 * 2**20
ATTEMPTS = 5
"""Checkpoints that are tried while a run removes them, one after the other, from under the reader."""
GONE = (errno.ENOENT, errno.ESTALE)
Result = TypeVar("Result")


class Removed(Retry):
    """Error of a checkpoint that its run, which continues, removed while it was read."""


class CheckpointReader:
    """Random access to a checkpoint that any number of ranks wrote.

    Attributes:
        where: path or URL, for people.
        world: ranks that wrote it.
        keys: what there is of parameters, such as "weight" and "optimizer.exp_avg".
        scalars: of each parameter, encoded as in `state.py`.
        metrics: of the run when it was saved.
        record: what the caller of the save added.
    """

    def __init__(self, storage: Storage, step: int):
        """Open a checkpoint.

        Raises:
            BadInput: another version of the format, or not a checkpoint at all.
            Removed: it is no longer there; reading from it raises the same.
        """
        self.storage, self.step = storage, step
        self.where = storage.where(step)
        watched = _Watched(storage)
        content = parse_json(_text(watched, step, RECORD))
        if content.get("format") != FORMAT:
            raise BadInput(
                f"{self.where} has checkpoint format {content.get('format')}, this fd_scale reads {FORMAT}; "
                f"continue it with the version that wrote it: {content.get('versions', {}).get('fd-scale', 'unknown')}"
            )
        self.world: int = content["world"]
        self.optimizer: str = content["optimizer"]
        self.metrics: dict[str, float] = content["metrics"]
        self.record: dict[str, Any] = content["record"]
        self.scalars: dict[str, dict[str, Any]] = {}
        self._pieces: dict[str, list[tuple[int, int, TensorFileReader]]] = {}  # entry -> (start, end, file)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        for name in sorted(_manifest(watched, step)):
            if name.endswith(".safetensors"):
                self._open(TensorFileReader(*_source(watched, step, name)))
        self.keys = sorted({entry.split("/", 1)[0] for entry in self._shapes})

    def names(self, key: str = WEIGHT) -> list[str]:
        """List the names of the tensors that have a key, in the model's order."""
        return [entry.split("/", 1)[1] for entry in self._shapes if entry.startswith(f"{key}/")]

    def has(self, name: str, key: str = WEIGHT) -> bool:
        return f"{key}/{name}" in self._shapes

    def shape(self, name: str, key: str = WEIGHT) -> tuple[int, ...]:
        return self._shapes[f"{key}/{name}"]

    def dtype(self, key: str) -> torch.dtype:
        """Type that a key is kept in."""
        return self._dtypes[key]

    def read(self, name: str, key: str = WEIGHT, start: int = 0, elements: int | None = None) -> Tensor:
        """Read a run (elements,) of the flattened tensor; all of it by default."""
        entry = f"{key}/{name}"
        if entry not in self._shapes:
            raise BadInput(f"{self.where} holds no {entry}; it is of another model or optimizer")
        end = start + (torch.Size(self._shapes[entry]).numel() if elements is None else elements)
        covered = [piece for piece in self._pieces[entry] if piece[0] < end and start < piece[1]]
        value = torch.empty(0) if covered else torch.empty(end - start)
        missing = end - start
        for piece_start, piece_end, file in covered:
            first, last = max(start, piece_start), min(end, piece_end)
            run = file.read(entry, first - piece_start, last - first)
            if last - first == end - start:
                return run
            if not value.numel():
                value = torch.empty(end - start, dtype=run.dtype)
            value[first - start : last - start] = run
            missing -= last - first
        if missing:
            raise BadInput(f"{self.where}: {missing} of {end - start} elements of {entry} are in no rank's file")
        return value

    def _open(self, file: TensorFileReader) -> None:
        self.scalars |= parse_json(file.metadata["scalars"])
        for entry, (start, *shape) in parse_json(file.metadata["places"]).items():
            self._shapes.setdefault(entry, tuple(shape))
            self._dtypes[entry.split("/", 1)[0]] = file.entries[entry].dtype
            end = start + file.entries[entry].shape[0]
            self._pieces.setdefault(entry, []).append((start, end, file))


def damage(storage: Storage, step: int, rank: int = 0, world: int = 1) -> str | None:
    """Say why the checkpoint must not be used, naming the file; None when it is whole.

    Every file is hashed by one of `world` callers; only all their answers together say that it is whole.
    """
    try:
        files = _manifest(storage, step)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{storage.where(step)} has no readable {MANIFEST}"
    for name in sorted(files)[rank::world]:
        problem = _file_damage(storage, step, name, *files[name])
        if problem:
            return f"{storage.where(step, name)} {problem}"
    return None


def read_whole(storage: Storage, step: int | None, take: Callable[[CheckpointReader], Result]) -> Result:
    """Make with `take` what a caller wants of a whole checkpoint: that of `step`, or the newest.

    A run that continues removes its older checkpoints. Where it removes the one that is read, `take` is called again
    with the newest one of that moment.

    Raises:
        BadInput: there is none, with the reason, to be followed by what to do.
        Removed: it was removed, and so were the ones after it.
    """
    for attempt in range(1, ATTEMPTS + 1):
        there = storage.steps()
        try:
            return take(CheckpointReader(storage, _whole_step(storage, step)))
        except Removed:
            if step is not None or attempt == ATTEMPTS:
                raise
        except BadInput:
            if step is not None or attempt == ATTEMPTS or storage.steps() == there:
                raise
    raise AssertionError("unreachable")


def _whole_step(storage: Storage, step: int | None) -> int:
    there = ", ".join(map(str, storage.steps())) or "none"
    if step is not None:
        problem = damage(storage, step)
        if problem:
            raise BadInput(f"no whole checkpoint of step {step}: {problem}; steps in {storage}: {there}")
        return step
    newest, damaged = newest_whole(storage)
    if newest is None:
        reason = f" ({damaged[0]})" if damaged else ""
        raise BadInput(
            f"no whole checkpoint in {storage}{reason}; give what `run.folder` or `run.checkpoints` named, and let the "
            f"run save one first"
        )
    return newest


def newest_whole(storage: Storage) -> tuple[int | None, list[str]]:
    """Find the step of the newest checkpoint that is whole, with a line for every newer one that is not."""
    problems: list[str] = []
    for step in reversed(storage.steps()):
        problem = damage(storage, step)
        if problem is None:
            return step, problems
        problems.append(problem)
    return None, problems


def metrics_by_step(storage: Storage) -> dict[int, dict[str, float]]:
    """Read the metrics of the checkpoints that are there; none for one that cannot be read."""
    found: dict[int, dict[str, float]] = {}
    for step in storage.steps():
        try:
            found[step] = parse_json(_text(storage, step, RECORD))["metrics"]
        except (OSError, ValueError, KeyError, TypeError):
            found[step] = {}
    return found


def _file_damage(storage: Storage, step: int, name: str, expected_bytes: int, sha256: str) -> str | None:
    try:
        size = storage.size(step, name)
        if size != expected_bytes:
            return f"has {size} bytes instead of {expected_bytes}"
        digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, _CHUNK)))
        for offset in range(0, size, _CHUNK):
            part = buffer[: min(_CHUNK, size - offset)]
            storage.read_into(step, name, offset, part)
            digest.update(part)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None if digest.hexdigest() == sha256 else "does not have the sha256 that it was written with"


def _manifest(storage: Readable, step: int) -> dict[str, tuple[int, str]]:
    """File -> bytes, sha256."""
    files = parse_json(_text(storage, step, MANIFEST), _unique)["files"]
    if any("/" in name for name in files):
        raise ValueError("a manifest names files of its own folder only")
    return {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One flipped bit can turn a rank's file into its neighbour's, and JSON would keep the last of the two."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _text(storage: Readable, step: int, name: str) -> str:
    content = bytearray(storage.size(step, name))
    storage.read_into(step, name, 0, memoryview(content))
    return content.decode()


class _Watched(Readable):
    """Reads from a storage, and tells a step that was removed from one that lacks a file."""

    def __init__(self, storage: Storage):
        self.storage = storage

    def where(self, step: int, file: str = "") -> str:
        return self.storage.where(step, file)

    def size(self, step: int, file: str) -> int:
        return self._asked(step, partial(self.storage.size, step, file))

    def read_into(self, step: int, file: str, offset: int, view: memoryview) -> None:
        self._asked(step, partial(self.storage.read_into, step, file, offset, view))

    def _asked(self, step: int, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except OSError as error:
            if error.errno in GONE and self._is_removed(step):
                raise Removed(
                    f"{self.storage.where(step)} was removed while it was read, by the run that goes on and keeps its "
                    f"newest ones; start again, or keep more of them with run.keep"
                ) from None
            raise

    def _is_removed(self, step: int) -> bool:
        try:
            return self.storage.size(step, MANIFEST) < 0
        except OSError as error:
            return error.errno in GONE


def _source(storage: Readable, step: int, name: str) -> tuple[Any, int, str]:
    return partial(storage.read_into, step, name), storage.size(step, name), storage.where(step, name)
