import re
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, OrderConfig, ViewConfig
from fd_scale.data.loader import Batch, TrainingData
from fd_scale.data.reader import ShardReader
from fd_scale.data.shards import read_index
from fd_scale.errors import BadInput, Retry

VIEW = ViewConfig(image_size=16)
Content = tuple[str, bytes]


def content(batches: list[Batch]) -> dict[tuple[int, int], Content]:
    """(step, position) -> what stands there: id and pixels."""
    return {
        (batch.step, position): (sample, image.numpy().tobytes())
        for batch in batches
        for position, sample, image in zip(batch.positions, batch.ids, batch.images, strict=True)
    }


def run(data: TrainingData, steps: range, world: int, micro: int, accumulation: int) -> dict[tuple[int, int], Content]:
    plan = BatchPlan(world * micro * accumulation, micro, world)
    found: dict[tuple[int, int], Content] = {}
    for rank in range(world):
        found |= content(list(data.micro_batches(steps, rank, plan)))
    return found


@pytest.fixture(scope="module")
def reference(shards):
    """Global batches of 12, ten passes' worth of shards read by one process in one piece."""
    config = DataConfig(str(shards), VIEW, OrderConfig(streams=4), workers=0)
    return run(TrainingData(config, seed=7), range(12), 1, 12, 1)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(1, 12, 1), (2, 6, 1), (2, 2, 3), (3, 4, 1), (4, 1, 3), (6, 1, 2), (12, 1, 1)]),
    st.integers(0, 11),
    st.sampled_from([0, 0, 0, 1, 3]),
)
def test_any_world_batching_workers_and_resume_point_give_the_same_ids_and_pixels(
    shards, reference, cut, resume, workers
):
    config = DataConfig(str(shards), VIEW, OrderConfig(streams=4), workers=workers)
    steps = range(resume, 12) if not workers else range(resume, min(12, resume + 2))
    found = run(TrainingData(config, seed=7), steps, *cut)
    assert found == {position: what for position, what in reference.items() if position[0] in steps}


@pytest.fixture
def damaged(shards, tmp_path):
    """A copy with three samples spoiled, each in its own way."""
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    images = [members[0] for members in read_index(copy / "shard-000000.idx")]
    with open(copy / "shard-000000.tar", "r+b") as file:
        for number, keep in ((3, 0), (4, 0), (9, 200)):
            file.seek(images[number].offset + keep)
            file.write(b"\0" * (images[number].bytes - keep))
    return copy, [f"shard-000000.tar/{images[number].name}" for number in (3, 4, 9)]


def test_bad_samples_are_replaced_the_same_way_for_everyone(damaged):
    folder, bad = damaged
    config = DataConfig(str(folder), VIEW, OrderConfig(streams=4), workers=0)
    one = run(TrainingData(config, seed=7), range(12), 1, 12, 1)
    three = run(TrainingData(config, seed=7), range(12), 3, 2, 2)
    assert one == three
    assert not {sample for sample, _ in one.values()} & set(bad)


def test_bad_samples_come_with_id_and_reason(damaged):
    folder, bad = damaged
    config = DataConfig(str(folder), VIEW, OrderConfig(streams=4), workers=2)
    data = TrainingData(config, seed=7)
    said = {entry for batch in data.micro_batches(range(4), 0, BatchPlan(12, 12, 1)) for entry in batch.bad}
    assert {sample for sample, _ in said} == set(bad)
    assert {reason for _, reason in said} <= {"undecodable", "truncated"}


def test_a_shard_with_nothing_usable_stops_with_a_name(shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    for shard in copy.glob("*.tar"):
        shard.write_bytes(b"\0" * shard.stat().st_size)
    config = DataConfig(str(copy), VIEW, workers=1)
    with pytest.raises(
        BadInput, match=r"sample shard-\d+\.tar/\d+\.jpg and 15 after it cannot be used \(undecodable\)"
    ):
        list(TrainingData(config, 0).micro_batches(range(1), 0, BatchPlan(8, 8, 1)))


def test_workers_that_start_early_serve_every_call(shards, reference):
    data = TrainingData(DataConfig(str(shards), VIEW, OrderConfig(streams=4), workers=1), seed=7)
    data.start_workers()
    started = torch.multiprocessing.active_children()
    abandoned = data.micro_batches(range(8, 12), 0, BatchPlan(12, 12, 1))
    next(abandoned)
    for steps in (range(2), range(1, 4)):
        found = run(data, steps, 1, 12, 1)
        assert found == {position: what for position, what in reference.items() if position[0] in steps}
    assert torch.multiprocessing.active_children() == started  # none is forked later, off a rank that holds a model
    assert len(started) == 1


# In a process of its own, for what else a process has done decides how many of its pages are whose.
COLLECTS_GARBAGE = """
import gc, sys
from pathlib import Path
from fd_scale.data.loader import DataConfig, TrainingData
from fd_scale.data.view import ViewConfig

def copied_by_a_collection():
    def private():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    before = private()
    gc.collect()
    return private() - before

TrainingData(DataConfig(sys.argv[1], ViewConfig(image_size=16), workers=1), 0).start_workers()
as_started = copied_by_a_collection()
gc.unfreeze()
print(as_started, copied_by_a_collection())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_collection_of_garbage_copies_no_page_that_workers_share(shards):
    ended = subprocess.run(
        [sys.executable, "-c", COLLECTS_GARBAGE, str(shards)], capture_output=True, text=True, timeout=120, check=True
    )
    as_started, with_all = map(int, ended.stdout.split())  # KiB
    assert as_started < with_all / 4


# Torch tells of a dead worker from a handler of SIGCHLD, which may strike at any instruction: so not in this process.
LOSES_A_WORKER = """
import os, signal, sys, time
import torch
from fd_scale.batch_plan import BatchPlan
from fd_scale.data.loader import DataConfig, TrainingData
from fd_scale.data.view import ViewConfig
from fd_scale.exits import run_to_exit_code

def main():
    data = TrainingData(DataConfig(sys.argv[1], ViewConfig(image_size=16), workers=2), 0)
    batches = data.micro_batches(range(10_000), 0, BatchPlan(8, 8, 1))
    if sys.argv[2] == "before the first batch":
        data.start_workers()
    else:
        next(batches)
    worker = torch.multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    while worker.is_alive():  # as the rank builds its models meanwhile, which must not be disturbed
        time.sleep(0.1)
    print("undisturbed")
    for _ in batches:
        pass

sys.exit(run_to_exit_code(main))
"""


@pytest.mark.parametrize("dies", ["before the first batch", "between two batches"])
def test_a_worker_that_dies_stops_the_run_at_the_next_batch_and_hangs_nothing(shards, dies):
    ended = subprocess.run(
        [sys.executable, "-c", LOSES_A_WORKER, str(shards), dies], capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "undisturbed\n"
    assert ended.returncode == Retry.exit_code
    (line,) = ended.stderr.splitlines()
    assert re.search(r"DataLoader worker \(pid \d+\) is killed by signal: Killed", line)


def test_a_mixture_names_its_parts(shards, damaged):
    config = DataConfig({str(shards): 3.0, str(damaged[0]): 1.0}, VIEW, workers=0)
    data = TrainingData(config, 0)
    draws = [
        draw
        for step in range(100)
        for draw in data.order.micro_batch(step, 0, 0, global_batch=10, micro_batch=10, world=1)
    ]
    assert sum(draw.dataset for draw in draws) == 250
    assert set(data.fingerprint()) == {str(shards), str(damaged[0])}


def test_a_reader_holds_only_the_shards_it_was_asked_for(shards):
    reader = ShardReader(shards)
    assert not reader._open
    _ = reader[21], reader[25]
    assert list(reader._open) == [1]


def test_synthetic_images_are_a_data_set_too():
    config = DataConfig("synthetic:1500", VIEW, workers=0)
    data = TrainingData(config, 0)
    (batch,) = data.micro_batches(range(1), 0, BatchPlan(4, 4, 1))
    assert batch.images.shape == (4, 3, 16, 16)
    assert len({image.numpy().tobytes() for image in batch.images}) == 4


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("pipe:curl http://x/{0..9}.tar", "Shell and remote URLs are not read"),
        ("s3://bucket/key", "Shell and remote URLs are not read"),
        ("synthetic:many", "is not `synthetic:N`"),
        ("/nowhere", "holds no manifest.json"),
    ],
)
def test_sources_that_are_none(source, line):
    with pytest.raises(BadInput, match=line):
        TrainingData(DataConfig(source, VIEW), 0)
