"""Drop path: the published statistics, and decisions that belong to the sample, in whatever company it comes."""

import math

import pytest
import torch

from fd_scale.keyed import sample_keys
from fd_scale.models.backbone import Backbone
from fd_scale.models.drop_path import DropPath, draws_of_blocks
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT

MANY = 100_000


def swin(drop_path: float = 0.5) -> Backbone:
    return SwinV2(8, (2, 2), (1, 2), window=4, patch_size=4, drop_path=drop_path, position_bias="shared")


def vit(drop_path: float = 0.5) -> Backbone:
    return ViT(16, 4, 2, image_size=16, patch_size=8, drop_path=drop_path)


both = pytest.mark.parametrize("build", [swin, vit])


@both
def test_every_block_drops_its_share_and_keeps_the_mean(build):
    model = build()
    rates = [block.drop_path.rate for block in model.blocks()]
    assert rates == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    zeros, ones = torch.zeros(MANY, 1), torch.ones(MANY, 1)
    all_draws = draws_of_blocks(sample_keys(0, 0, range(MANY)), 4)
    for block, rate, draws in zip(model.blocks(), rates, all_draws, strict=True):
        for draw in draws.unbind(1):
            output = block.drop_path(zeros, ones, draw)
            spread = math.sqrt(rate * (1 - rate) / MANY)
            assert (output == 0).float().mean().item() == pytest.approx(rate, abs=4.5 * spread)
            assert output.mean().item() == pytest.approx(1, abs=4.5 * spread / (1 - rate))


def test_a_sample_is_dropped_or_kept_as_a_whole():
    tokens, branch = torch.randn(40, 3, 5, 7), torch.randn(40, 3, 5, 7)
    draws = torch.linspace(0, 0.975, 40)
    output = DropPath(0.25)(tokens, branch, draws)
    assert torch.equal(output[:10], tokens[:10])
    torch.testing.assert_close(output[10:], tokens[10:] + branch[10:] / 0.75)


def test_the_gradient_is_dropped_with_the_branch():
    tokens, branch = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    DropPath(0.5)(tokens, branch, torch.tensor([0.1, 0.9])).sum().backward()
    assert torch.equal(tokens.grad, torch.ones(2, 3))
    assert torch.equal(branch.grad, torch.tensor([[0.0] * 3, [2.0] * 3]))


def test_blocks_and_branches_decide_on_their_own():
    draws = torch.cat(draws_of_blocks(sample_keys(0, 0, range(MANY)), 4), dim=1)  # (MANY, blocks * branches)
    assert draws.shape[1] == 8
    correlation = torch.corrcoef(draws.T) - torch.eye(8)
    assert correlation.abs().max() < 4.5 / math.sqrt(MANY)


@both
@pytest.mark.parametrize("sizes", [[1] * 6, [2, 4], [5, 1]])
def test_a_batch_computes_what_its_parts_do(build, sizes, randomise):
    """Exact up to the order in which a matrix product sums, hence fp64."""
    model = build().double()
    randomise(model)
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    keys = sample_keys(0, 0, range(6))
    whole = model(images, keys)
    parts = [model(i, k) for i, k in zip(images.split(sizes), keys.split(sizes), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    others = model(images, sample_keys(0, 1, range(6)))
    assert (others - whole).abs().amax(dim=(1, 2)).min() > 1e-3, "a sample for which no decision differs"


@both
def test_maps_are_dropped_as_the_tokens_are(build, randomise):
    model = build()
    randomise(model)
    keys = sample_keys(0, 0, range(4))
    images = torch.randn(4, 3, 16, 16)
    tokens, last = model(images, keys), model.forward_maps(images, keys)[-1]
    torch.testing.assert_close(tokens[:, model.num_prefix_tokens :], model.norm(last.flatten(2).transpose(1, 2)))


@both
def test_training_without_keys_is_refused_where_something_would_be_dropped(build, randomise):
    model, never = build(), build(drop_path=0.0)
    images = torch.randn(2, 3, 16, 16)
    for m in (model, never):
        randomise(m)
    with pytest.raises(ValueError, match=r"drop path \(here 0\.17\) needs a key for each sample"):
        model(images)
    never(images)
    model.eval()
    assert torch.equal(model(images), model(images, sample_keys(0, 0, range(2))))


@both
def test_each_branch_of_each_block_takes_the_draws_that_are_its_own(build, randomise):
    model = build()
    randomise(model)
    taken = []
    for block in model.blocks():
        block.drop_path.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[2]))
    keys = sample_keys(0, 0, range(4))
    model(torch.randn(4, 3, 16, 16), keys)
    assert torch.equal(torch.stack(taken, dim=1), torch.cat(draws_of_blocks(keys, 4), dim=1))


@both
def test_torchs_generators_neither_matter_nor_move(build, randomise, run):
    model = build()
    randomise(model)
    images = torch.randn(4, 3, 16, 16)

    def outcome(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        output, _ = run(lambda i: model(i, sample_keys(0, 0, range(4))), model, images)
        assert torch.equal(torch.get_rng_state(), before)
        return output

    assert torch.equal(outcome(0), outcome(1))


@both
def test_bf16_drops_the_same_samples(build, randomise):
    model = build()
    randomise(model)
    dropped: dict[torch.dtype, list[torch.Tensor]] = {torch.float32: [], torch.bfloat16: []}

    def record(module, inputs, output):
        tokens, _, _ = inputs
        dropped[tokens.dtype].append((output == tokens).flatten(1).all(dim=1))

    for module in model.modules():
        if isinstance(module, DropPath):
            module.register_forward_hook(record)
    images, keys = torch.randn(16, 3, 16, 16), sample_keys(0, 0, range(16))
    model(images, keys)
    model.bfloat16()(images.bfloat16(), keys)
    whole, half = (torch.stack(found) for found in dropped.values())
    assert whole.any()
    assert torch.equal(whole, half)
