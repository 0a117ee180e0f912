"""What `test_two_processes.py` runs on every rank: `program.py CHECK ARGUMENTS...`, assertions inside."""

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fd_scale.distill.head import StudentWithHead
from fd_scale.errors import BadInput, Retry
from fd_scale.exits import run_to_exit_code
from fd_scale.keyed import sample_keys
from fd_scale.models.init import initialise, initialise_all
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from fd_scale.parallel.checkpoint_reader import CheckpointReader
from fd_scale.parallel.deepspeed_config import BatchPlan, ParallelConfig, read_json, resolve
from fd_scale.parallel.engine import (
    build_sharded,
    frozen_engine,
    full_parameters,
    set_learning_rate,
    training_engine,
)
from fd_scale.parallel.ranks import Ranks, together
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.train.optimizer import OptimConfig, adamw, parameter_groups

REPOSITORY = Path(__file__).resolve().parents[2]
MICRO = 2


def build() -> StudentWithHead:
    # drop path on and norms that let it be heard, shared bias, odd sizes that two ranks cannot share evenly
    swin = SwinV2(
        12, (2, 2), (1, 3), window=4, patch_size=4, drop_path=0.3, position_bias="shared", residual_norm_init=1.0
    )
    return StudentWithHead(swin, teacher_width=7)


def engine_of(stage: int, precision: str, ranks: Ranks, seed: int = 0, recompute: str = "all"):
    batch = BatchPlan(2 * MICRO * ranks.world, MICRO, ranks.world)
    sharding = read_json(REPOSITORY / f"deepspeed_configs/zero{stage}.json")
    sharding["zero_optimization"]["stage3_param_persistence_threshold"] = 1000  # some partitioned, some persistent
    config = resolve(sharding, ParallelConfig(precision=precision), batch, clip=3.0)
    rules = build()
    model = build_sharded(build, partial(initialise_with, rules, seed), config, ranks)
    apply_recompute(model.student, recompute)
    return training_engine(model, adamw(OptimConfig()), parameter_groups(model, 0.05), config)


def initialise_with(rules: nn.Module, seed: int, name: str, parameter: Tensor) -> None:
    initialise(rules, name, parameter, seed)


def one_step(engine, ranks: Ranks, step: int, precision: str) -> float:
    set_learning_rate(engine, 1e-2)
    total = 0.0
    for micro_step in range(2):
        torch.manual_seed(1000 * step + 10 * micro_step + ranks.rank)
        images = torch.randn(MICRO, 3, 32, 32).to(torch.bfloat16 if precision == "bf16" else torch.float32)
        first = (2 * ranks.rank + micro_step) * MICRO
        keys = sample_keys(0, step, range(first, first + MICRO))
        loss = engine(images, keys).float().square().mean()
        engine.backward(loss)
        engine.step()
        total += loss.item()
    return process_group.sum_over_ranks([total])[0]


def whole_parameters(engine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in full_parameters(engine.module)}


def sharded_build(ranks: Ranks) -> None:
    """Every tensor of a sharded build equals the unsharded one's."""
    plain = build()
    initialise_all(plain, seed=3)
    sharded = whole_parameters(engine_of(3, "fp32", ranks, seed=3))
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, sharded[name]), name


def resume(ranks: Ranks, stage: str, precision: str, folder: str) -> None:
    """Save, go on; load into a fresh engine, go on: the same losses and weights, bit for bit."""
    undisturbed = engine_of(int(stage), precision, ranks)
    for step in range(3):
        one_step(undisturbed, ranks, step, precision)
    save_checkpoint(undisturbed, Path(folder), 3, {"note": "kept"}, ranks)
    expected = [one_step(undisturbed, ranks, step, precision) for step in range(3, 6)]

    resumed = engine_of(int(stage), precision, ranks, seed=99)
    path, damaged = newest_checkpoint(Path(folder))
    assert path is not None, damaged
    assert load_checkpoint(resumed, path) == 3
    losses = [one_step(resumed, ranks, step, precision) for step in range(3, 6)]
    assert losses == expected, (losses, expected)
    before, after = whole_parameters(undisturbed), whole_parameters(resumed)
    assert all(torch.equal(before[name], after[name]) for name in before)

    reader = CheckpointReader(path)
    assert reader.record == {"note": "kept"}
    assert reader.scalars["step"] == 3
    assert set(reader.shapes) == set(before)


def elastic(ranks: Ranks, folder: str, precision: str) -> None:
    """What another world wrote is read here, into stages 3 and 1 alike."""
    path, _ = newest_checkpoint(Path(folder))
    reader = CheckpointReader(path)
    for stage in (3, 1):
        engine = engine_of(stage, precision, ranks, seed=5)
        load_checkpoint(engine, path)
        for name, value in whole_parameters(engine).items():
            assert torch.equal(value.float(), reader.read(name).view(value.shape).to(value.dtype).float()), name


def recompute(ranks: Ranks) -> None:
    """Losses and weights with and without recomputation are equal, drop path on."""
    losses, weights = {}, {}
    for policy in ("none", "all"):
        engine = engine_of(3, "fp32", ranks, recompute=policy)
        losses[policy] = [one_step(engine, ranks, step, "fp32") for step in range(3)]
        weights[policy] = whole_parameters(engine)
    assert losses["none"] == losses["all"], losses
    assert all(torch.equal(weights["none"][name], weights["all"][name]) for name in weights["none"])


def frozen(ranks: Ranks) -> None:
    """A sharded frozen model computes what the plain one does."""
    plain = build()
    initialise_all(plain, seed=1)
    plain.eval().requires_grad_(False)
    torch.manual_seed(ranks.rank)
    images = torch.randn(2, 3, 32, 32)
    expected = plain(images)
    assert torch.equal(frozen_engine(plain, MICRO, ranks, "fp32")(images), expected)


def agreement(ranks: Ranks) -> None:
    """An expected error on one rank is raised on all, as what it is; without one nothing is raised."""
    for kind in (BadInput, Retry):
        with pytest.raises(kind, match="the last rank objects") as caught:
            object_on_the_last_rank(kind, ranks)
        assert caught.value.agreed
    with together():
        pass
    assert process_group.gather(ranks.rank) == list(range(ranks.world))
    assert process_group.sum_over_ranks([1.0, ranks.rank]) == [ranks.world, sum(range(ranks.world))]


def object_on_the_last_rank(kind: type[Exception], ranks: Ranks) -> None:
    with together():
        if ranks.rank == ranks.world - 1:
            raise kind("the last rank objects")


def full_disk(ranks: Ranks, folder: str) -> None:
    """A save that does not fit raises BadInput on all ranks and leaves the earlier checkpoint whole."""
    engine = engine_of(3, "fp32", ranks)
    one_step(engine, ranks, 0, "fp32")
    save_checkpoint(engine, Path(folder), 1, {}, ranks)
    if ranks.is_first:
        (Path(folder) / "filler").write_bytes(b"x" * (shutil.disk_usage(folder).free - 2**14))
    process_group.barrier()
    with pytest.raises(BadInput, match="no space left"):
        save_checkpoint(engine, Path(folder), 2, {}, ranks)
    process_group.barrier()  # rank 0 tidies up after it has raised
    path, damaged = newest_checkpoint(Path(folder))
    assert path.name == "step_00000001", (path, damaged)
    assert not list(Path(folder).glob(".*.partial"))


def other_model(ranks: Ranks, folder: str) -> None:
    """A checkpoint of another model is refused, with the difference."""
    path, _ = newest_checkpoint(Path(folder))
    engine = engine_of(3, "fp32", ranks)
    engine.module.head.weight.ds_shape = torch.Size((7, 25))
    with pytest.raises(BadInput, match=r"head\.weight is \(7, 24\) there and \(7, 25\)"):
        load_checkpoint(engine, path)


def main() -> None:
    check, *arguments = sys.argv[1:]
    ranks = process_group.start(timeout_minutes=2)
    globals()[check](ranks, *arguments)


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
