"""Small real engines for the programs that tests run on every rank, and a training that no number of ranks changes."""

from collections.abc import Callable
from functools import partial

import torch
from support.helpers import REPOSITORY
from torch import Tensor, nn

from fd_scale.batch_plan import BatchPlan
from fd_scale.keyed import sample_keys
from fd_scale.models.init import initialise
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.objective.head import StudentWithHeads
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.parallel.engine import build_sharded, full_parameters, set_learning_rate, training_engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.train.config import OptimConfig
from fd_scale.train.optimizer import adamw, parameter_groups

GLOBAL, MICRO = 12, 2  # divide evenly by one, two and three ranks


def build() -> StudentWithHeads:
    # drop path on and norms that let it be heard, shared bias, extra norms, sizes that two ranks cannot share evenly
    swin = SwinV2(
        12,
        (2, 2),
        (1, 3),
        window=4,
        patch_size=4,
        drop_path=0.3,
        position_bias="shared",
        extra_norm_every=2,
        residual_norm_init=1.0,
    )
    return StudentWithHeads(swin, teacher_width=7)


def engine_of(
    ranks: Ranks,
    stage: int = 3,
    precision: str = "fp32",
    *,
    seed: int = 0,
    recompute: str = "all",
    offload: bool = False,
    optimizer: Callable[[list[dict]], torch.optim.Optimizer] | None = None,
    freeze: str | None = None,
):
    """A DeepSpeed engine over `build()`; `freeze` names a prefix of parameters that are not trained."""
    sharding = read_json(REPOSITORY / "deepspeed_configs" / f"zero{stage or 1}.json")
    zero = sharding["zero_optimization"]
    zero["stage"] = stage
    zero["stage3_param_persistence_threshold"] = 1000  # some partitioned, some persistent
    zero["sub_group_size"] = 3000  # several flat groups
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    batch = BatchPlan(GLOBAL, MICRO, ranks.world)
    config = resolve(sharding, ParallelConfig(precision=precision), batch, clip=3.0)
    rules = build()
    model = build_sharded(build, partial(_fill, rules, seed), config, ranks)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (freeze and name.startswith(freeze)))
    apply_recompute(model.student, recompute)
    return training_engine(model, optimizer or adamw(OptimConfig()), parameter_groups(model, 0.05), config)


def one_step(engine, ranks: Ranks, step: int) -> float:
    """Train on global batch `step`; its mean loss, the same on every rank."""
    set_learning_rate(engine, lambda scale: 1e-2)
    dtype = next(engine.module.parameters()).dtype
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(GLOBAL, 3, 32, 32, generator=generator).to(dtype)
    keys = sample_keys(0, step, range(GLOBAL))
    local_rows = torch.arange(GLOBAL).chunk(ranks.world)[ranks.rank]
    total = 0.0
    for micro in local_rows.split(MICRO):
        loss = engine(images[micro], keys[micro])[0].float().square().mean()
        engine.backward(loss)
        engine.step()
        total += loss.item() * len(micro)
    return process_group.sum_over_ranks([total])[0] / GLOBAL


def whole_parameters(engine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in full_parameters(engine.module)}


def _fill(rules: nn.Module, seed: int, name: str, parameter: Tensor) -> None:
    initialise(rules, name, parameter, seed)
