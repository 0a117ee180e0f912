import pytest
import torch
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.objective.config import LossConfig
from fd_scale.objective.loss import check_loss, loss_per_image
from fd_scale.objective.target import TokenMatch


def test_the_loss_is_the_published_smooth_l1_and_so_is_its_gradient():
    prediction = (torch.randn(3, 5, 16) * 4).requires_grad_()
    target = torch.randn(3, 5, 16)
    (ours,) = torch.autograd.grad(loss_per_image(prediction, target, LossConfig()).mean(), prediction)
    (published,) = torch.autograd.grad(nn.SmoothL1Loss(beta=2.0)(prediction, target), prediction)
    assert torch.allclose(ours, published, rtol=1e-6, atol=0)
    # quadratic within beta, linear outside
    assert loss_per_image(torch.full((1, 1, 1), 1.0), torch.zeros(1, 1, 1), LossConfig()).item() == 0.25
    assert loss_per_image(torch.full((1, 1, 1), 5.0), torch.zeros(1, 1, 1), LossConfig()).item() == 4.0


def test_mse_and_cosine_are_their_formulas():
    prediction, target = torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    squares = (prediction - target).square().sum(dim=(1, 2)) / (5 * 16)
    assert torch.allclose(loss_per_image(prediction, target, LossConfig("mse")), squares)
    cosine = (prediction * target).sum(-1) / prediction.square().sum(-1).sqrt() / target.square().sum(-1).sqrt()
    assert torch.allclose(loss_per_image(prediction, target, LossConfig("cosine")), (1 - cosine).mean(1), atol=1e-6)


@pytest.mark.parametrize("kind", ["smooth_l1", "mse", "cosine"])
def test_a_prefix_token_counts_as_much_as_its_weight_says(kind):
    prediction, target = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    alone = torch.cat([loss_per_image(prediction[:, t : t + 1], target[:, t : t + 1], LossConfig(kind))[:, None]
                       for t in range(6)], dim=1)  # fmt: skip  # (B, T)
    weighted = (3.5 * alone[:, :2].sum(1) + alone[:, 2:].sum(1)) / (3.5 * 2 + 4)
    assert torch.allclose(loss_per_image(prediction, target, LossConfig(kind, prefix_weight=3.5), 2), weighted)
    unweighted = loss_per_image(prediction, target, LossConfig(kind), 2)
    assert torch.allclose(unweighted, alone.mean(1))
    without = loss_per_image(prediction, target, LossConfig(kind, prefix_weight=0), 2)
    assert torch.allclose(without, alone[:, 2:].mean(1))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LossConfig(beta=0), r"loss\.beta=0 is not positive"),
        (LossConfig(prefix_weight=-1), r"loss\.prefix_weight=-1 is negative"),
        (LossConfig(prefix_weight=4), r"loss\.prefix_weight=4 weighs nothing: no prefix token of teacher"),
    ],
)
def test_a_loss_that_means_nothing_is_refused(config, line):
    with pytest.raises(BadInput, match=line):
        check_loss(config, {"teacher": TokenMatch()})


def test_a_weight_of_prefix_tokens_is_taken_where_any_teacher_keeps_some():
    check_loss(LossConfig(prefix_weight=4), {"teacher": TokenMatch(), "dino": TokenMatch(prefix=1)})
