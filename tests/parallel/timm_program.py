"""What `test_timm_models.py` runs on every rank: `timm_program.py CHECK`, assertions inside."""

import torch
from parallel.engines import GLOBAL, MICRO, one_step, whole_parameters
from parallel.running import run_check
from support.helpers import REPOSITORY

from fd_scale.batch_plan import BatchPlan
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise, initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.parallel.engine import build_sharded, frozen_engine, training_engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.train.config import OptimConfig
from fd_scale.train.optimizer import adamw, parameter_groups

STUDENTS = ("timm:test_vit", "timm:test_convnext", "timm:vit_tiny_patch16_dinov3_qkvb")
"""The last one's attention reads a parameter of its child, which DeepSpeed gathers when it is asked for."""


def engine_of(ranks: Ranks, name: str, precision: str, recompute: str):
    def build() -> StudentWithHeads:
        return StudentWithHeads(build_student(StudentConfig(name, drop_path=0.3), 32), teacher_width=7)

    rules = build()  # first outside of zero.Init, as a task does
    zero = read_json(REPOSITORY / "deepspeed_configs" / "zero3.json")
    zero["zero_optimization"]["stage3_param_persistence_threshold"] = 1000  # some partitioned, some persistent
    config = resolve(zero, ParallelConfig(precision=precision), BatchPlan(GLOBAL, MICRO, ranks.world), clip=3.0)
    model = build_sharded(build, lambda parameter, values: initialise(rules, parameter, values, 3), config, ranks)
    apply_recompute(model.student, recompute)
    engine = training_engine(model, adamw(OptimConfig()), parameter_groups(model, 0.05), config)
    return engine, rules


def students(ranks: Ranks) -> None:
    """A sharded build equals the unsharded one, and steps with and without recomputation are equal, drop path on."""
    for name in STUDENTS:
        losses = {}
        for recompute in ("none", "all"):
            engine, plain = engine_of(ranks, name, "fp32", recompute)
            initialise_all(plain, 3)
            sharded = whole_parameters(engine)
            assert sharded.keys() == dict(plain.named_parameters()).keys()
            for parameter, values in plain.named_parameters():
                assert torch.equal(values, sharded[parameter]), parameter
            losses[recompute] = [one_step(engine, ranks, step) for step in range(2)]
        assert losses["none"] == losses["all"], losses
        assert losses["none"][1] != losses["none"][0], losses
    buffers(ranks)


def buffers(ranks: Ranks) -> None:
    """What a constructor computed is not rounded by a build in bf16 shards."""
    engine, plain = engine_of(ranks, "timm:vit_tiny_patch16_dinov3_qkvb", "bf16", "none")
    assert engine.module.student.rope.periods.dtype == torch.float32
    for (name, buffer), (_, exact) in zip(engine.module.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(buffer, exact), name


def teachers(ranks: Ranks, *files: str) -> None:
    """A sharded teacher gives, bit for bit, what a replica gives."""
    for file in files:
        teacher = build_teacher(TeacherConfig(f"file:{file}", sharded=True), 64)
        torch.manual_seed(ranks.rank)
        images = torch.randn(2, 3, 64, 64)
        expected = teacher(images)
        assert torch.equal(frozen_engine(teacher, MICRO, ranks, "fp32")(images), expected), file


if __name__ == "__main__":
    run_check(globals())
