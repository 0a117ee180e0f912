import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fd_scale.distill.explained import explained_variance
from fd_scale.distill.loss import smooth_l1_per_image
from fd_scale.distill.target import TargetConfig, TokenMatch, make_target, match_tokens
from fd_scale.errors import BadInput

FITTING = {
    "teacher_prefix": 1,
    "student_prefix": 1,
    "teacher_grid": (6, 6),
    "student_grid": (6, 6),
    "image_size": 96,
}


def test_whitening_is_layer_norm_without_affine():
    tokens = torch.randn(2, 5, 16, dtype=torch.float64) * 3 + 1
    centred = tokens - tokens.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(make_target(tokens, "whiten", TokenMatch(0, 0)).double(), expected, atol=1e-6)


def test_l2_and_none():
    tokens = torch.randn(2, 5, 16)
    assert torch.allclose(make_target(tokens, "l2", TokenMatch(0, 0)).norm(dim=-1), torch.ones(2, 5))
    assert torch.equal(make_target(tokens, "none", TokenMatch(2, 0)), tokens[:, 2:])


def test_the_loss_is_the_published_smooth_l1_and_so_is_its_gradient():
    prediction = (torch.randn(3, 5, 16) * 4).requires_grad_()
    target = torch.randn(3, 5, 16)
    (ours,) = torch.autograd.grad(smooth_l1_per_image(prediction, target, 2.0).mean(), prediction)
    (published,) = torch.autograd.grad(nn.SmoothL1Loss(beta=2.0)(prediction, target), prediction)
    assert torch.allclose(ours, published, rtol=1e-6, atol=0)
    # quadratic within beta, linear outside
    assert smooth_l1_per_image(torch.full((1, 1, 1), 1.0), torch.zeros(1, 1, 1), 2.0).item() == 0.25
    assert smooth_l1_per_image(torch.full((1, 1, 1), 5.0), torch.zeros(1, 1, 1), 2.0).item() == 4.0


def test_every_token_counts_when_both_have_a_class_token():
    assert match_tokens(TargetConfig(), **FITTING) == TokenMatch(0, 0)


def test_the_class_token_is_dropped_when_only_the_teacher_has_one():
    assert match_tokens(TargetConfig(), **{**FITTING, "student_prefix": 0}) == TokenMatch(1, 0)
    assert match_tokens(TargetConfig(prefix="drop"), **FITTING) == TokenMatch(1, 1)


def test_what_does_not_fit_is_refused_with_the_fix():
    with pytest.raises(BadInput, match="teacher's token grid is 6x6 and the student's 3x3"):
        match_tokens(TargetConfig(), **{**FITTING, "student_grid": (3, 3)})
    with pytest.raises(BadInput, match=r"set target\.prefix=drop"):
        match_tokens(TargetConfig(prefix="keep"), **{**FITTING, "student_prefix": 0})


def test_explained_variance_of_known_predictions():
    torch.manual_seed(0)
    target = torch.randn(4000, 3) * torch.tensor([1.0, 2.0, 0.5]) + 5
    mean = target.mean(0).expand_as(target)
    assert explained_variance(target, target) == 1
    assert explained_variance(mean, target) == pytest.approx(0, abs=1e-9)
    assert explained_variance(torch.zeros_like(target), target) < -1
    assert explained_variance((target + mean) / 2, target) == pytest.approx(0.75)
    noisy = target + F.normalize(torch.randn_like(target), dim=1)
    assert explained_variance(noisy, target) < 1
