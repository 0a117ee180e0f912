import pytest
import torch
import torch.nn.functional as F

from fd_scale.diagnosis.explained_variance import explained_variance


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
