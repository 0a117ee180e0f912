"""Models that give NaN are never measured: kNN, linear probe and validation end with one line."""

import math

import pytest
import torch
from tasks.in_process import group_of_one

from fd_scale.data.config import EvaluationView
from fd_scale.data.evaluation import EvaluationData
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import KnnConfig
from fd_scale.evaluate.features import Frozen, extract
from fd_scale.evaluate.knn import _votes
from fd_scale.evaluate.validation import validate
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.ranks import Ranks

ALONE = Ranks(0, 0, 1, torch.device("cpu"))
PIXELS = ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_end_a_probe(shards, value):
    def model(images):
        tokens = torch.ones(len(images), 4, 8)
        tokens[0, 1, 2] = value
        return tokens

    data = EvaluationData(str(shards), 32, EvaluationView(), 0)
    frozen = Frozen(model, torch.float32, 0, *PIXELS, "student.safetensors")
    with pytest.raises(BadInput, match=r"3 features of .* hold NaN or infinity: student\.safetensors"):
        extract(frozen, data, 16, "mean", ALONE, lambda items, total, label: items)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_end_a_validation(shards, value, tmp_path):
    data = EvaluationData(str(shards), 32, EvaluationView(), 0)
    with group_of_one(tmp_path):
        ranks = process_group.start()
        with pytest.raises(BadInput, match="its accuracy would say nothing") as caught:
            validate(lambda images: torch.full((len(images), 2), value), data, PIXELS, 16, ranks)
    assert caught.value.agreed


def test_votes_of_the_nearest_are_finite_at_any_temperature():
    similarity, found = torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[1, 0, 0]])
    for temperature in (1e-30, 1e-4, 0.07):
        votes = _votes(similarity, found, KnnConfig((3,), temperature), 2)[3]
        assert votes.isfinite().all()
        assert votes.argmax() == 1, temperature
