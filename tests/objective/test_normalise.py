import pytest
import torch

from fd_scale.errors import BadInput
from fd_scale.objective.normalise import EPS, Normaliser, make_normaliser, whiten

WIDTH = 12
CPU = torch.device("cpu")


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over one rank."""
    return tensor


def batch(seed: int, images: int = 6) -> torch.Tensor:
    """(B, T, C) of correlated channels, far from mean 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99))
    return torch.randn(images, 5, WIDTH, generator=generator) @ mixing + 3 * torch.arange(WIDTH)


def calibrated(name: str, steps: int = 1, micro: int = 6) -> Normaliser:
    normaliser = make_normaliser(name, WIDTH, CPU)
    assert normaliser.needs_calibration
    parts = [part for step in range(steps) for part in batch(step).split(micro)]
    normaliser.calibrate(steps, parts, alone, is_first=True)
    assert not normaliser.needs_calibration
    return normaliser


def test_whitening_is_layer_norm_without_affine():
    tokens = torch.randn(2, 5, 16, dtype=torch.float64) * 3 + 1
    centred = tokens - tokens.mean(-1, keepdim=True)
    assert torch.allclose(whiten(tokens), centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert torch.equal(make_normaliser("whiten", 16, CPU)(tokens), whiten(tokens))


def test_l2_and_none():
    tokens = torch.randn(2, 5, 16)
    assert torch.allclose(make_normaliser("l2", 16, CPU)(tokens), tokens / tokens.square().sum(-1, keepdim=True).sqrt())
    assert torch.equal(make_normaliser("none", 16, CPU)(tokens), tokens)


def test_standardise_gives_each_channel_mean_0_and_variance_1():
    rows = batch(0).flatten(0, 1).double()
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + EPS).sqrt()
    assert torch.allclose(calibrated("standardise")(batch(0)).flatten(0, 1).double(), expected, atol=1e-5)


def test_phi_s_rotates_to_channels_of_one_variance_and_scales_once():
    rows = batch(0).flatten(0, 1).double()
    target = calibrated("phi_s")(batch(0)).flatten(0, 1).double()
    assert torch.allclose(target.mean(0), torch.zeros(WIDTH, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(target.var(0, correction=0), torch.ones(WIDTH, dtype=torch.float64), atol=1e-4)
    # one scale: distances between tokens keep their proportions, which dividing channel by channel would not
    ratio = torch.pdist(target) / torch.pdist(rows)
    assert torch.allclose(ratio, ratio[:1], rtol=1e-5)
    assert ratio[0] == pytest.approx(rows.var(0, correction=0).mean().item() ** -0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["standardise", "phi_s"])
def test_what_a_step_sees_counts_from_the_next_step_on(name):
    normaliser = calibrated(name)
    first = normaliser(batch(0))
    assert torch.equal(normaliser(batch(0)), first)  # another micro-batch of the same step
    normaliser.advance(alone)
    assert torch.equal(normaliser(batch(0)), first)  # the calibration had that batch already
    seen = normaliser(batch(1))
    normaliser.advance(alone)
    after = normaliser(batch(1))
    assert not torch.allclose(after, seen, atol=1e-3)
    if name == "standardise":
        # `batch(0)` was looked at once more before
        rows = torch.cat([batch(0), batch(0), batch(1)]).flatten(0, 1).double()
        expected = (batch(1).double() - rows.mean(0)) / (rows.var(0, correction=0) + EPS).sqrt()
        assert torch.allclose(after.double(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["standardise", "phi_s"])
def test_micro_batches_change_nothing(name):
    targets = []
    for micro in (1, 3, 6):
        normaliser = calibrated(name, steps=2, micro=micro)
        for step in range(4):
            for part in batch(step).split(micro):
                normaliser(part)
            normaliser.advance(alone)
        targets.append(normaliser(batch(9)))
    assert torch.allclose(targets[0], targets[1], rtol=1e-5, atol=1e-6)
    assert torch.allclose(targets[0], targets[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["standardise", "phi_s"])
def test_what_the_tensors_hold_is_all_that_another_start_needs(name):
    normaliser = calibrated(name, steps=2)
    for step in range(3):
        normaliser(batch(step))
        normaliser.advance(alone)
        if step == 0:
            copy = make_normaliser(name, WIDTH, CPU)
            for kind, value in copy.tensors().items():
                value.copy_(normaliser.tensors()[kind])
            assert not copy.needs_calibration
        else:
            copy(batch(step))
            copy.advance(alone)
    assert torch.equal(copy(batch(7)), normaliser(batch(7)))


def test_phi_s_refuses_too_few_tokens_and_a_width_without_a_hadamard_matrix():
    normaliser = make_normaliser("phi_s", WIDTH, CPU)
    with pytest.raises(BadInput, match=r"covariance of 12 channels in 10 tokens; raise target\.calibration_steps"):
        normaliser.calibrate(1, [batch(0, images=2)], alone, is_first=True)
    line = "covariance of 12 channels in 8 tokens, from which target.resize makes 30; raise target"
    with pytest.raises(BadInput, match=line):
        make_normaliser("phi_s", WIDTH, CPU).calibrate(1, [batch(0)], alone, is_first=True, observed=4 / 15)
    with pytest.raises(BadInput, match="none of order 7"):
        make_normaliser("phi_s", 7, CPU)
