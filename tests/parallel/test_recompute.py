"""Which blocks are computed again, as pure functions; that no policy changes a number; what is refused."""

from functools import partial

import pytest
import torch
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys
from fd_scale.models import init
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.parallel.recompute_policy import GIB, every, read_policy, within_budget

POLICIES = ["none", "all", "every 2", "every 3", "0 GiB", "4 GiB"]


def test_every_nth_block_is_recomputed():
    kept = [1] * 5
    assert every(0, kept) == [False] * 5
    assert every(1, kept) == [True] * 5
    assert every(2, kept) == [False, True, False, True, False]
    assert every(3, kept) == [False, False, True, False, False]


def test_a_budget_recomputes_as_few_of_the_first_blocks_as_it_can():
    kept = [40, 20, 10, 5]
    assert within_budget(kept, 75) == [False] * 4
    assert within_budget(kept, 74) == [True, True, False, False], "one block more: 40 for itself and 35 do not fit"
    assert within_budget([10, 20, 20, 20], 69) == [True, True, False, False]
    assert within_budget([10, 20, 20, 20], 70) == [False] * 4
    assert within_budget([10, 10, 10], 20) == [True, True, False]
    assert within_budget(kept, 1) == [True] * 4


def model(attention: str = "auto") -> SwinV2:
    swin = SwinV2(
        16,
        (2, 4),
        (2, 4),
        window=10,
        patch_size=2,
        drop_path=0.5,
        position_bias="shared",
        extra_norm_every=2,
        attention=attention,
        residual_norm_init=1.0,
    )
    init.initialise_all(swin, 0)
    return swin


@pytest.mark.parametrize("attention", ["reference", "tiled"])
def test_every_policy_gives_bit_identical_losses_and_gradients(attention):
    images, keys = torch.randn(3, 3, 50, 36), sample_keys(0, 0, range(3))
    outcomes, runs = {}, {}
    tight = f"{0.7 * sum(model(attention).activation_bytes((3, 25, 18, 16), 4)) / GIB:.6f} GiB"
    for policy in [*POLICIES, tight]:
        swin = model(attention)
        calls: list[nn.Module] = []
        for block in swin.blocks():
            block.register_forward_pre_hook(lambda block, inputs, calls=calls: calls.append(block))
        apply_recompute(swin, policy)
        loss = swin(images, keys).square().mean()
        loss.backward()
        outcomes[policy] = [loss.detach(), *(parameter.grad for parameter in swin.parameters())]
        runs[policy] = [calls.count(block) for block in swin.blocks()]
    for policy, outcome in outcomes.items():
        assert all(torch.equal(a, b) for a, b in zip(outcome, outcomes["none"], strict=True)), policy
    assert runs["none"] == runs["4 GiB"] == [1] * 6
    assert runs["all"] == runs["0 GiB"] == [2] * 6
    assert runs["every 2"] == [1, 2, 1, 2, 1, 2]
    assert runs["every 3"] == [1, 1, 2, 1, 1, 2]
    assert runs[tight] == sorted(runs[tight], reverse=True), "the first blocks"
    assert set(runs[tight]) == {1, 2}, "and not all of them"


def test_a_budget_follows_the_size_of_the_images():
    swin = model()
    (small, large) = (sum(swin.activation_bytes((1, side, side, 16), 4)) for side in (16, 32))
    apply_recompute(swin, f"{(small + large) / 2 / GIB:.9f} GiB")
    calls: list[nn.Module] = []
    swin.blocks()[0].register_forward_pre_hook(lambda block, inputs: calls.append(block))
    for pixels, expected in ((32, 1), (64, 2), (32, 1)):
        calls.clear()
        swin(torch.randn(1, 3, pixels, pixels), sample_keys(0, 0, range(1))).sum().backward()
        assert len(calls) == expected


@pytest.mark.parametrize("policy", ["some", "every 0", "every", "every two", "-1 GiB", "20", "20 GB", "every 2 "])
def test_another_policy_is_one_line_wherever_it_is_read(policy):
    for read in (read_policy, partial(apply_recompute, model()), lambda text: ParallelConfig(recompute=text)):
        with pytest.raises(BadInput, match=r"parallel\.recompute .* is not a policy; write none, all, 'every 2'"):
            read(policy)


def test_a_budget_for_a_model_without_an_estimate_is_one_line():
    class Other(nn.Module):
        def blocks(self):
            return []

    with pytest.raises(BadInput, match=r"Other does not say what its blocks keep; use 'all' or for example 'every 2'"):
        apply_recompute(Other(), "20 GiB")
