"""Stopped anywhere, resumed on another number of processes: the same run, drop path on. Real photographs."""

import os
import random
import signal
import subprocess
import sys

import pytest
from support.helpers import REPOSITORY
from tasks.running import losses, run, start, wait_for

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, ViewConfig
from fd_scale.data.loader import TrainingData

FLOWERS = REPOSITORY.parent / "shared" / "data" / "flowers160"
STEPS = 12
BATCH = 24


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    if not FLOWERS.is_dir():
        pytest.skip("the shared photographs are not here; test_distill_runs.py asks the same of generated ones")
    out = tmp_path_factory.mktemp("flowers") / "shards"
    command = [sys.executable, "-m", "fd_scale", "pack", str(FLOWERS / "train"), str(out), "--shard-samples", "100"]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.mark.shared_data
def test_stop_at_a_random_step_and_resume_with_one_and_with_two_processes(flowers, teacher_file, tmp_path):
    def arguments(name: str) -> list[str]:
        return [
            "distill",
            str(REPOSITORY / "configs/demo/swin_v2.yaml"),
            f"data.train={flowers}",
            "data.view.image_size=32",
            "data.workers=1",
            f"run.folder={tmp_path / name}",
            f"teacher.spec=file:{teacher_file}",
            "student.drop_path=0.3",
            f"train.global_batch={BATCH}",
            "train.micro_batch=4",
            f"schedule.steps={STEPS}",
            "schedule.warmup_steps=2",
            "run.log_every=1",
        ]

    code, errors = run(arguments("undisturbed"))
    assert code == 0, errors
    undisturbed = losses(tmp_path / "undisturbed")

    last = random.Random(os.getpid()).randrange(1, STEPS - 3)
    process = start(arguments("stopped"))
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    wait_for(metrics)
    while len(metrics.read_text().splitlines()) < last:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 0
    for nproc in (2, 1):
        name = f"resumed by {nproc}"
        subprocess.run(["cp", "-r", tmp_path / "stopped", tmp_path / name], check=True)
        code, errors = run(arguments(name), nproc)
        assert code == 0, errors
        assert "resuming from" in errors
        if nproc == 2:
            assert losses(tmp_path / name) == undisturbed
        else:
            # Only the order of summation differs.
            assert losses(tmp_path / name) == pytest.approx(undisturbed, rel=1e-5)


@pytest.mark.shared_data
def test_the_ids_and_pixels_of_a_run_are_those_of_one_process(flowers):
    config = DataConfig(str(flowers), ViewConfig(image_size=32), workers=2)
    data = TrainingData(config, seed=0)

    def batches(world: int, micro: int) -> dict[tuple[int, int], tuple[str, bytes]]:
        return {
            (batch.step, position): (sample, image.numpy().tobytes())
            for rank in range(world)
            for batch in data.micro_batches(range(40, 43), rank, BatchPlan(BATCH, micro, world))
            for position, sample, image in zip(batch.positions, batch.ids, batch.images, strict=True)
        }

    whole = batches(1, BATCH)
    assert len(whole) == 3 * BATCH
    assert batches(2, 4) == whole
    assert batches(3, 8) == whole
