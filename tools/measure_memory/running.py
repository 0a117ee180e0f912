"""A distillation on generated images and random weights, run on two ranks and measured beside its plan."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
from safetensors.torch import save_file

from fd_scale import api
from fd_scale.config import load_config
from fd_scale.launch import launch
from fd_scale.memory import RankMemory
from fd_scale.parallel.deepspeed_config import read_json
from fd_scale.tasks.config import DistillConfig
from fd_scale.tasks.distillation_plan import distillation_memory
from tools.measure_memory.processes import Watch
from tools.tiny_run import REPOSITORY, write_images

GIB = 2**30
RANKS = 2
LIVE_SHARE = 0.10
RESIDENT_SHARE, RESIDENT_LEAST = 0.15, 0.25 * GIB
"""How far what is measured may lie from the plan: of live tensors, and of resident memory, where the larger counts."""


@dataclass(frozen=True)
class Measured:
    plan: RankMemory
    live: int
    """Of the rank that is profiled: the peak of live tensor bytes."""
    resident: int
    """Of the other rank and its data worker: the peak of resident memory, without what the rank's imports took."""
    job: int
    """Peak of resident memory of all processes together, imports included."""

    @property
    def live_ratio(self) -> float:
        return self.live / self.plan.peak_on_cpu

    @property
    def resident_excess(self) -> float:
        """Bytes of resident memory above the plan; negative below it."""
        return self.resident - self.plan.peak_on_cpu

    @property
    def within(self) -> tuple[bool, bool]:
        """Whether live tensors and resident memory are within their bounds."""
        allowed = max(RESIDENT_SHARE * self.plan.peak_on_cpu, RESIDENT_LEAST)
        return abs(self.live_ratio - 1) <= LIVE_SHARE, abs(self.resident_excess) <= allowed


class Failed(Exception):
    """Error of a job that did not end with 0."""


def measure(
    config: str, overrides: list[str], stage: int, recompute: str, folder: Path, limit: float, profiled: int = 1
) -> Measured:
    """Train two steps with a save after each, and measure the memory.

    Args:
        config: a shipped distillation whose teacher is timm's; it keeps its image size, precision and teacher.
        overrides: more of the configuration.
        folder: for data, weights and the run.
        limit: bytes of the whole job at which it is killed.
        profiled: the rank whose live tensors are counted; resident memory is the other's.

    Raises:
        Failed: the job did not end with 0, or was killed at the limit.
    """
    json_file = REPOSITORY / f"deepspeed_configs/zero{stage}.json"
    words = [
        f"data.train={_shards(folder)}",
        f"run.folder={folder / 'run'}",
        f"parallel.deepspeed={json_file}",
        f"parallel.recompute={recompute}",
        *("train.global_batch=2", "train.micro_batch=1", "data.workers=1", "run.tensorboard=false"),
        *("schedule.epochs=null", "schedule.steps=2", "schedule.warmup_epochs=null", "schedule.warmup_steps=1"),
        *("run.save_every=1", "run.keep.last=1"),
        *overrides,
    ]
    teacher = load_config(DistillConfig, config, words).teacher.spec
    words.append(f"teacher.spec={teacher}@{_weights(teacher, folder)}")
    plan = distillation_memory(load_config(DistillConfig, config, words), RANKS, read_json(json_file))
    program = (sys.executable, "-m", "tools.measure_memory.on_rank", str(folder), str(profiled))
    with Watch(limit, partial(_begun, folder)) as watch:
        code = launch(["distill", config, *words], RANKS, program=program)
    if watch.exceeded:
        raise Failed(f"killed at {watch.peak / GIB:.1f} GiB")
    if code:
        raise Failed(f"ended with {code}")
    other = 1 - profiled
    begun, ended = _read(folder / f"begun_{other}.json"), _read(folder / f"ended_{other}.json")
    return Measured(
        plan,
        _read(folder / f"ended_{profiled}.json")["live"],
        watch.peak_of(other, ended["until"]) - begun["imports"],
        watch.peak,
    )


def _shards(folder: Path) -> Path:
    if not (folder / "shards").exists():
        write_images(folder / "images")
        api.pack(folder / "images", folder / "shards", shard_samples=20, workers=1)
    return folder / "shards"


def _weights(spec: str, folder: Path) -> Path:
    """Random weights of a timm model, in a file."""
    name = spec.removeprefix("timm:")
    path = folder / f"{name}.safetensors"
    if not path.exists():
        state = timm.create_model(name, pretrained=False).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def _begun(folder: Path) -> dict[int, int]:
    """The process of each rank that has written down what its imports took."""
    files = {rank: folder / f"begun_{rank}.json" for rank in range(RANKS)}
    return {rank: _read(path)["pid"] for rank, path in files.items() if path.exists()}


def _read(path: Path) -> dict:
    return json.loads(path.read_text())
