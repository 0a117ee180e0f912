"""What `test_two_processes.py` runs on every rank: `program.py CHECK ARGUMENTS...`, assertions inside."""

import math

import pytest
import torch
from parallel.engines import GLOBAL, MICRO, build, engine_of, one_step, whole_parameters
from parallel.running import run_check

from fd_scale.errors import BadInput, Retry
from fd_scale.models.init import initialise_all
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.engine import frozen_engine
from fd_scale.parallel.ranks import Ranks, raise_on_all_ranks
from fd_scale.parallel.recompute_policy import GIB


def recompute(ranks: Ranks) -> None:
    """Losses and weights are equal whatever is recomputed, drop path on."""
    losses, weights = {}, {}
    estimate = build().student.activation_bytes((MICRO, 8, 8, 12), 4)
    policies = ("none", "all", "every 2", f"{0.7 * sum(estimate) / GIB:.7f} GiB")
    for policy in policies:
        engine = engine_of(ranks, recompute=policy)
        losses[policy] = [one_step(engine, ranks, step) for step in range(3)]
        weights[policy] = whole_parameters(engine)
    for policy in policies:
        assert losses[policy] == losses["none"], losses
        assert all(torch.equal(weights[policy][name], weights["none"][name]) for name in weights["none"]), policy


def gradient_norms(ranks: Ranks) -> None:
    """A gradient that is not finite never reaches the weights and shows in the norm, whatever the loss."""
    for stage, precision in ((1, "bf16"), (2, "bf16"), (3, "bf16"), (3, "fp32")):
        engine = engine_of(ranks, stage=stage, precision=precision)
        one_step(engine, ranks, 0)
        assert 0 < engine.get_global_grad_norm() < math.inf
        before = whole_parameters(engine)
        images = torch.ones(MICRO, 3, 32, 32, dtype=next(engine.module.parameters()).dtype)
        for _ in range(GLOBAL // ranks.world // MICRO):
            output = engine(images, torch.arange(MICRO))[0]
            loss = (0 * output.float()).sum().sqrt()  # 0, with a gradient of 0 x infinity
            engine.backward(loss)
            engine.step()
        assert engine.get_global_grad_norm() == math.inf, (stage, precision)
        assert all(torch.equal(before[name], value) for name, value in whole_parameters(engine).items())


def frozen(ranks: Ranks) -> None:
    """A sharded frozen model computes what the plain one does."""
    plain = build()
    initialise_all(plain, seed=1)
    plain.eval().requires_grad_(False)
    torch.manual_seed(ranks.rank)
    images = torch.randn(2, 3, 32, 32)
    (expected,) = plain(images)
    assert torch.equal(frozen_engine(plain, MICRO, ranks, "fp32")(images)[0], expected)


def agreement(ranks: Ranks) -> None:
    """An expected error on one rank is raised on all, as what it is; without one nothing is raised."""
    for kind in (BadInput, Retry):
        with pytest.raises(kind, match="the last rank objects") as caught:
            object_on_the_last_rank(kind, ranks)
        assert caught.value.agreed
    with raise_on_all_ranks():
        pass
    assert process_group.gather(ranks.rank) == list(range(ranks.world))
    assert process_group.sum_over_ranks([1.0, ranks.rank]) == [ranks.world, sum(range(ranks.world))]


def object_on_the_last_rank(kind: type[Exception], ranks: Ranks) -> None:
    with raise_on_all_ranks():
        if ranks.rank == ranks.world - 1:
            raise kind("the last rank objects")


if __name__ == "__main__":
    run_check(globals())
