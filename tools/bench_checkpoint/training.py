"""Engine to save, after one step of noise, and its numbers to compare and to destroy."""

from pathlib import Path
from typing import Any

import torch

from fd_scale.batch_plan import BatchPlan
from fd_scale.keyed import sample_keys
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.parallel.checkpoint.state import TrainingState, training_state
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.parallel.engine import build_sharded, set_learning_rate, training_engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.train.config import OptimConfig
from fd_scale.train.optimizer import adamw, parameter_groups

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = 32


def trained_engine(ranks: Ranks, student: str) -> tuple[Any, TrainingState]:
    """Make an engine and train it one step on noise of 32 px. Collective."""

    def build() -> StudentWithHeads:
        return StudentWithHeads(build_student(StudentConfig(student), IMAGE), teacher_width=1024)

    with torch.device("meta"):
        rules = build()
    config = resolve(
        read_json(REPOSITORY / "deepspeed_configs/zero3.json"),
        ParallelConfig(precision="fp32"),
        BatchPlan(ranks.world, 1, ranks.world),
        clip=3.0,
    )
    model = build_sharded(build, lambda name, parameter: initialise(rules, name, parameter, 0), config, ranks)
    engine = training_engine(model, adamw(OptimConfig()), parameter_groups(model, 0.05), config)
    set_learning_rate(engine, lambda scale: 1e-3)
    engine.backward(engine(torch.randn(1, 3, IMAGE, IMAGE), sample_keys(0, 0, [ranks.rank]))[0].square().mean())
    engine.step()
    return engine, training_state(engine, ranks)


def digest(state: TrainingState) -> list[int]:
    """Hash the bits that this rank holds."""
    return [int(value.view(torch.int32).sum()) for _, _, value in state.fragments() if value.dtype == torch.float32]


def scribble(state: TrainingState) -> None:
    for _, _, value in state.fragments():
        value.zero_()
