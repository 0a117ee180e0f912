"""What the tests of saving run on every rank: `saving_program.py CHECK FOLDER...`, assertions inside."""

import contextlib
import hashlib
import io
import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch
from parallel.checkpoint.saved import SGD, content, norms, same, save
from parallel.engines import engine_of, one_step
from parallel.running import run_check

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.loader import find_whole, load_checkpoint, load_weights
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.retention import Retention
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.checkpoint.storage import LocalStorage, open_storage
from fd_scale.parallel.checkpoint.writer import CheckpointWriter
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.ranks import Ranks
from fd_scale.train.config import StartConfig
from fd_scale.train.resume import begin
from tools.measure_memory.live import LivePeak


def refusals(ranks: Ranks, folder: str, other: str) -> None:
    """A checkpoint of another model, optimizer or format, and one without an average, each in one line on all ranks."""
    reader = CheckpointReader(open_storage(folder), 3)
    engine = engine_of(ranks)
    with pytest.raises(BadInput, match=r"holds states of AdamW, this run trains with SGD"):
        load_checkpoint(training_state(engine_of(ranks, optimizer=SGD), ranks), None, reader)
    storage = open_storage(other)
    one_step(engine, ranks, 0)
    state = training_state(engine, ranks)
    save(state, storage, 1, ranks)
    with pytest.raises(BadInput, match="holds no moving average; set train"):
        load_checkpoint(state, ShardedEma(state, 0.9), CheckpointReader(storage, 1))
    # One number on one rank is enough for all to refuse, and what was saved before is untouched.
    for value in (math.nan, math.inf):
        for piece, parameter in list(state.trained())[-1:]:
            if ranks.rank == ranks.world - 1:
                state.weight(piece, parameter)[-1] = value
        writing = CheckpointWriter(state, None, storage, Retention(last=1), ranks)
        writing.save(2, {}, {})
        with pytest.raises(BadInput, match=r"weight of .* holds NaN or infinity at step 2, which is not saved") as told:
            writing.wait()
        assert told.value.agreed
        assert storage.steps() == [1]
    engine.module.head.weight.ds_shape = torch.Size((7, 25))
    with pytest.raises(BadInput, match=r"head\.weight is \(7, 24\) there and \(7, 25\)"):
        load_weights(state, reader)


def background(ranks: Ranks, folder: str) -> None:
    """Training on while a slow disk writes changes nothing of what is written; the next save and the end wait."""
    engine = engine_of(ranks)
    state = training_state(engine, ranks)
    one_step(engine, ranks, 0)
    storage = SlowStorage(Path(folder))
    save(state, open_storage(Path(folder) / "at_once"), 1, ranks)
    with CheckpointWriter(state, None, storage, Retention(last=5), ranks) as writer:
        writer.save(1, {}, {})
        assert storage.steps() == []
        for step in range(1, 4):
            one_step(engine, ranks, step)
        writer.save(4, {}, {})
        assert storage.steps() == [1]
    assert storage.steps() == [1, 4]
    with CheckpointWriter(state, None, storage, Retention(last=5), ranks) as writer:
        with LivePeak() as copying:
            writer.save(5, {}, {})
        with LivePeak() as waiting:
            writer.save(6, {}, {}, last=True)
        assert storage.steps() == [1, 4, 5, 6]
    assert waiting.peak < copying.peak / 4  # nothing is copied where nothing is trained meanwhile
    assert same(content(CheckpointReader(storage, 5)), content(CheckpointReader(storage, 6)))
    at_once = CheckpointReader(open_storage(Path(folder) / "at_once"), 1)
    assert same(content(at_once), content(CheckpointReader(storage, 1)))


def full_disk(ranks: Ranks, folder: str) -> None:
    """A save that does not fit raises BadInput on all ranks and leaves the earlier checkpoint whole."""
    engine = engine_of(ranks)
    one_step(engine, ranks, 0)
    state, storage = training_state(engine, ranks), open_storage(folder)
    writer = CheckpointWriter(state, None, storage, Retention(), ranks)
    writer.save(1, {}, {})
    writer.wait()
    if ranks.is_first:
        (Path(folder) / "filler").write_bytes(b"x" * (shutil.disk_usage(folder).free - 2**14))
    process_group.barrier()
    writer.save(2, {}, {})
    with pytest.raises(BadInput, match=r"no space left for .*step_00000002"):
        writer.wait()
    process_group.barrier()  # rank 0 tidies up after it has raised
    assert find_whole(storage, ranks) == (1, [])
    assert not list(Path(folder).glob(".*.partial"))


def anywhere(ranks: Ranks, url: str) -> None:
    """To a URL and back: rotation, the newest whole one, and what a killed save leaves there."""
    storage = open_storage(url)
    engine = engine_of(ranks)
    one_step(engine, ranks, 0)
    state = training_state(engine, ranks)
    with CheckpointWriter(state, None, storage, Retention(last=1, best="loss"), ranks) as writer:
        for step, loss in ((1, 0.5), (2, 0.7), (3, 0.6)):
            writer.save(step, {}, {"loss": loss})
    assert storage.steps() == [1, 3]  # the best and the last
    process_group.barrier()  # all have looked before rank 0 adds to it
    if ranks.is_first:
        with storage.create(5, "rank_00000.safetensors") as file:
            file.write(b"torn")
    process_group.barrier()
    step, (problem,) = find_whole(storage, ranks)
    assert step == 3
    assert problem == f"{storage.where(5)} has no readable manifest.json"
    load_checkpoint(state, None, CheckpointReader(storage, 3))
    save(state, storage, 6, ranks)
    assert storage.steps() == [3, 6]  # what the killed save left is gone


def passed_by(ranks: Ranks, folder: str) -> None:
    """Later checkpoints that are damaged push no whole one out."""
    storage = LocalStorage(Path(folder))
    model = norms(seed=0)
    state = training_state(model, ranks, SGD(model.parameters()))
    for step in (10, 21, 22):
        save(state, storage, step, ranks)
        if ranks.is_first and step > 20:
            (Path(folder) / f"step_{step:08d}" / "manifest.json").unlink()
        process_group.barrier()
    assert storage.steps() == [21, 22]
    save(state, storage, 15, ranks)
    assert find_whole(storage, ranks)[0] == 15


def unreadable(ranks: Ranks, folder: str, other: str) -> None:
    """A damaged checkpoint is warned of, also where the whole one before it cannot be opened."""
    storage = LocalStorage(Path(other))
    damaged, whole = (Path(storage.where(step)) for step in (3, 2))
    if ranks.is_first:
        for copy in (damaged, whole):
            shutil.copytree(Path(folder) / "step_00000003", copy)
        (damaged / "rank_00001.safetensors").unlink()
        later = json.dumps(json.loads((whole / "checkpoint.json").read_text()) | {"format": 99}).encode()
        (whole / "checkpoint.json").write_bytes(later)
        manifest = json.loads((whole / "manifest.json").read_text())
        manifest["files"]["checkpoint.json"] = {"bytes": len(later), "sha256": hashlib.sha256(later).hexdigest()}
        (whole / "manifest.json").write_text(json.dumps(manifest))
    process_group.barrier()
    model = norms(seed=0)
    state = training_state(model, ranks, SGD(model.parameters()))
    said = io.StringIO()
    with pytest.raises(BadInput, match="has checkpoint format 99"), contextlib.redirect_stderr(said):
        begin(state, None, storage, StartConfig(), {}, lambda *_: [], {}, lambda *_: [], lambda *_: None, ranks)
    warning = f"warning: {damaged / 'rank_00001.safetensors'} is missing; it is not used\n"
    assert (warning in said.getvalue()) == ranks.is_first, said.getvalue()


class SlowStorage(LocalStorage):
    def prepare(self, step: int) -> None:
        time.sleep(1.5)
        super().prepare(step)


if __name__ == "__main__":
    run_check(globals())
