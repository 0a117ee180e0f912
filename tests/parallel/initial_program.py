"""What `test_initial_weights.py` runs on every rank: all models at all stages and precisions, assertions inside."""

import gc
from collections.abc import Callable

import pytest
import torch
from parallel.running import run_check
from support.helpers import REPOSITORY
from torch import Tensor, nn

from fd_scale.batch_plan import BatchPlan
from fd_scale.keyed import sample_keys
from fd_scale.models.classifier import Classifier
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise, initialise_all
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.objective.target import TokenMatch
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.parallel.engine import build_sharded, full_parameters, set_learning_rate, training_engine
from fd_scale.parallel.evaluation import fill
from fd_scale.parallel.ranks import Ranks
from fd_scale.train.config import OptimConfig
from fd_scale.train.optimizer import adamw, parameter_groups

SEED, SIZE, BATCH, STEPS = 3, 32, 4, 8
ROUNDING = {"fp32": 1e-5, "bf16": 2e-2}
"""Of losses, as a share of the first one."""


def swin(position_bias: str, extra_norm_every: int = 0) -> SwinV2:
    return SwinV2(
        12,
        (1, 2),
        (1, 3),
        window=4,
        patch_size=4,
        drop_path=0.0,
        position_bias=position_bias,
        extra_norm_every=extra_norm_every,
        residual_norm_init=1.0,
    )


def vit(position_bias: str) -> ViT:
    return ViT(18, 2, 3, image_size=SIZE, patch_size=8, position_bias=position_bias, drop_path=0.0)


def timm(name: str) -> nn.Module:
    return build_student(StudentConfig(f"timm:{name}", drop_path=0.0), SIZE)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "swin shared, two heads": lambda: StudentWithHeads(swin("shared", 2), 7, more={"other": (5, TokenMatch())}),
    "vit absolute": lambda: StudentWithHeads(vit("absolute"), 7),
    "timm's ViT": lambda: StudentWithHeads(timm("test_vit"), 7),
    "swin per_block, classifier": lambda: Classifier(swin("per_block"), 5, "kept"),
    "vit per_block": lambda: StudentWithHeads(vit("per_block"), 7),
    "vit shared, classifier": lambda: Classifier(vit("shared"), 5, "fresh"),
}
TRAINED = list(MODELS)[:3]
SPREAD = ("swin shared, two heads", "vit shared, classifier")
"""Models of `make test`; the first one is trained."""


def every_model(ranks: Ranks, which: str) -> None:
    for name, build in MODELS.items():
        if which == "spread" and name not in SPREAD:
            continue
        expected = build()
        initialise_all(expected, SEED)
        before = {n: p.detach().clone() for n, p in expected.named_parameters()}
        losses: dict[tuple[str, int], list[float]] = {}
        for precision in ("fp32", "bf16"):
            for stage in (1, 2, 3):
                gc.freeze()  # engines collect garbage, which costs more than all else where so much is imported
                engine, state = started(build, stage, precision, ranks)
                copy = build()
                fill(copy, state, None, ranks)
                for parameter, value in copy.named_parameters():
                    assert torch.equal(value, before[parameter]), (name, stage, precision, parameter)
                seen = full_parameters(engine.module)  # what the forward pass reads
                for parameter, value in seen:
                    assert torch.equal(value, before[parameter].to(value.dtype)), (name, stage, precision, parameter)
                if name in TRAINED:
                    losses[precision, stage] = [one_step(engine, step, ranks) for step in range(STEPS)]
        for (precision, stage), found in losses.items():
            near = ROUNDING[precision] * losses["fp32", 1][0]
            assert found == pytest.approx(losses["fp32", 1], abs=near), (name, stage, precision)
            assert found[-1] < 0.8 * found[0], (name, stage, precision, "does not learn")


def started(build: Callable[[], nn.Module], stage: int, precision: str, ranks: Ranks):
    """As a run that begins with no checkpoint."""
    sharding = read_json(REPOSITORY / "deepspeed_configs" / f"zero{stage}.json")
    sharding["zero_optimization"]["stage3_param_persistence_threshold"] = 300  # some partitioned, some persistent
    config = resolve(sharding, ParallelConfig(precision=precision), BatchPlan(BATCH, BATCH // 2, ranks.world), clip=3.0)
    rules = build()

    def initial(name: str, parameter: Tensor) -> None:
        initialise(rules, name, parameter, SEED)

    model = build_sharded(build, initial, config, ranks)
    engine = training_engine(model, adamw(OptimConfig()), parameter_groups(model, 0.05), config)
    state = training_state(engine, ranks)
    state.fill(initial)
    return engine, state


def one_step(engine, step: int, ranks: Ranks) -> float:
    """Of the global batch, the same on every rank."""
    set_learning_rate(engine, lambda scale: 1e-3)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(step % 2))
    keys = sample_keys(SEED, step, range(BATCH))
    local_rows = torch.arange(BATCH).chunk(ranks.world)[ranks.rank]
    outputs = engine(images[local_rows].to(next(engine.module.parameters()).dtype), keys[local_rows])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = torch.stack([(output.float() - 1).square().mean() for output in outputs]).sum()
    engine.backward(loss)
    engine.step()
    return process_group.sum_over_ranks([loss.item()])[0] / ranks.world


if __name__ == "__main__":
    run_check(globals())
