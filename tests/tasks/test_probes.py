"""kNN and the linear probe against scikit-learn, torch and the published formula, and on two ranks as on one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.running import run
from timm.optim import Lars
from torch import nn

from fd_scale.api import export
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import KnnConfig, LinearConfig
from fd_scale.evaluate.features import Features
from fd_scale.evaluate.knn import check_knn, knn_accuracy
from fd_scale.evaluate.linear import Probe, linear_accuracy
from fd_scale.parallel.ranks import Ranks

ALONE = Ranks(0, 0, 1, torch.device("cpu"))
WIDTH, CLASSES = 12, 4


def clouds(count: int, seed: int) -> Features:
    """Overlapping clouds, so that neighbours disagree."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=random)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
    values = centres[labels] + 1.5 * torch.randn(count, WIDTH, generator=random)
    return Features(values, labels, 0, (count,), CLASSES)


@pytest.mark.parametrize("temperature", [0.0, 0.07])
def test_knn_equals_scikit_learns(temperature):
    from sklearn.neighbors import KNeighborsClassifier

    train, validation = clouds(300, 0), clouds(150, 1)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature) if temperature else np.ones_like(distance)

    found = knn_accuracy(train, validation, KnnConfig((1, 7, 50), temperature), ALONE)
    for k, accuracy in found.items():
        theirs = KNeighborsClassifier(k, weights=weights, metric="cosine")
        theirs.fit(train.values.numpy(), train.labels.numpy())
        expected = theirs.score(validation.values.numpy(), validation.labels.numpy())
        assert accuracy == pytest.approx(expected, abs=1 / 150 if temperature == 0 else 1e-9)  # ties
    assert 0.3 < found[50] < 1.0


def test_the_probe_steps_as_batch_norm_linear_and_lars_do():
    """Against torch's own modules, two rates at once, several steps."""
    train = clouds(64, 0)
    rates = [0.5, 2.0]
    probe = Probe(WIDTH, CLASSES, LinearConfig(base_lrs=tuple(rates), weight_decay=0.01), ALONE)
    theirs = []
    for number, rate in enumerate(rates):
        model = nn.Sequential(nn.BatchNorm1d(WIDTH, eps=1e-6, affine=False), nn.Linear(WIDTH, CLASSES))
        with torch.no_grad():
            model[1].weight.copy_(probe.weights[number])
            model[1].bias.zero_()
        groups = [
            {"params": [model[1].weight], "weight_decay": 0.01, "always_adapt": True},
            {"params": [model[1].bias]},
        ]
        theirs.append((model, Lars(groups, lr=rate, momentum=0.9)))
    for step in range(5):
        part = slice(step * 12, (step + 1) * 12)
        probe.step(train.values[part], train.labels[part], 12, rates)
        for model, optimizer in theirs:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.values[part]), train.labels[part]).backward()
            optimizer.step()
    for number, (model, _) in enumerate(theirs):
        torch.testing.assert_close(probe.weights[number], model[1].weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(probe.biases[number], model[1].bias, rtol=1e-4, atol=1e-6)
        hits = (model.eval()(train.values).argmax(dim=1) == train.labels).sum()
        assert probe.right(train.values, train.labels)[number] == hits


def test_timms_lars_with_these_groups_is_the_published_rule():
    """The released code, without decay as there: the step of a matrix is scaled by 0.001 |w| / |g|, that of a bias not.

    With decay the two differ a little: timm divides by |g| + decay |w|, the release by |g + decay w|.
    """
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5))
    groups = [{"params": [weight], "always_adapt": True}, {"params": [bias]}]
    optimizer = Lars(groups, lr=0.7, momentum=0.9)
    expected = [weight.detach().clone(), bias.detach().clone()]
    velocity = [torch.zeros(5, 3), torch.zeros(5)]
    for _ in range(4):
        weight.grad, bias.grad = torch.randn(5, 3), torch.randn(5)
        for number, gradient in enumerate((weight.grad, bias.grad)):
            update = gradient * (0.001 * expected[0].norm() / gradient.norm() if number == 0 else 1)
            velocity[number] = 0.9 * velocity[number] + update
            expected[number] = expected[number] - 0.7 * velocity[number]
        optimizer.step()
    torch.testing.assert_close(bias.detach(), expected[1])
    torch.testing.assert_close(weight.detach(), expected[0])


def test_the_best_rate_separates_what_can_be_separated():
    labels = torch.arange(200) % CLASSES
    noise = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0))
    values = torch.eye(CLASSES, WIDTH)[labels] * 3 + 0.1 * noise
    easy = Features(values, labels, 0, (200,), CLASSES)
    config = LinearConfig(base_lrs=(1e-6, 200.0), epochs=20, warmup_epochs=2, batch=50)
    found = linear_accuracy(easy, easy, config, ALONE, lambda items, total, label: items)
    assert found[200.0] == 1.0
    assert found[1e-6] < 1.0


@pytest.mark.parametrize("k", [(0,), (301,), ()])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(BadInput, match=r"k of .*: choose numbers from 1 to 300, the images of probe\.train"):
        check_knn(300, KnnConfig(k), "probe")


def probe_arguments(verb: str, coloured, teacher_file, folder) -> list[str]:
    return [
        verb,
        "configs/linear/small.yaml",
        f"folder={folder}",
        f"probe.model=file:{teacher_file}",
        f"probe.train={coloured[0]}",
        f"probe.validation={coloured[1]}",
        "probe.image_size=32",
        "probe.batch=5",
        "probe.workers=0",
        "knn.k=[1, 5, 20]",
        "linear.base_lrs=[1.0, 20.0]",
        "linear.epochs=30",
        "linear.batch=16",
    ]


@pytest.mark.parametrize("verb", ["knn", "linear"])
def test_two_ranks_measure_what_one_does(verb, coloured, teacher_file, tmp_path):
    """48 and 21 images on two ranks in batches of five: nothing divides."""
    results = []
    for nproc in (1, 2):
        folder = tmp_path / str(nproc)
        code, errors = run(probe_arguments(verb, coloured, teacher_file, folder), nproc)
        assert code == 0, errors
        results.append(json.loads((folder / f"{verb}.json").read_text()))
    assert results[0] == results[1]
    assert results[0]["best"] > 0.6  # colours show even in random features
    assert list(results[0]["images"].values()) == [48, 21]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ("probe.model=nothing.safetensors", "probe.model: no file "),
        ("probe.validation=nowhere", "nowhere holds no manifest.json"),
        ("probe.train=synthetic:9", "9 of 9 samples in synthetic:9 have no label"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(changed, line, coloured, teacher_file, tmp_path):
    code, errors = run([*probe_arguments("knn", coloured, teacher_file, tmp_path), changed], nproc=1)
    assert code == 2, errors
    assert line in errors
    assert "Traceback" not in errors


def test_a_run_measures_its_student_on_the_way_and_keeps_the_best(tiny_run, coloured):
    """As `fd-scale knn` measures the export of the same step."""
    folder = Path(next(word for word in tiny_run if word.startswith("run.folder=")).removeprefix("run.folder="))
    asked = [f"probe.train={coloured[0]}", f"probe.validation={coloured[1]}", "run.evaluate_every=4", "probe.k=5"]
    code, errors = run([*tiny_run, *asked, "run.keep.last=1", "run.keep.best=knn", "run.keep.best_is=highest"])
    assert code == 0, errors
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {entry["step"]: entry["knn"] for entry in entries if "knn" in entry}
    assert set(found) == {4, 8}
    export(folder, folder / "student.safetensors", step=8)
    arguments = probe_arguments("knn", coloured, "", folder)
    code, errors = run([*arguments, f"probe.model={folder / 'student.safetensors'}", "knn.k=[5]"], nproc=1)
    assert code == 0, errors
    assert json.loads((folder / "knn.json").read_text())["best"] == pytest.approx(found[8])


def test_half_a_probe_is_refused(tiny_run, coloured):
    code, errors = run([*tiny_run, f"probe.train={coloured[0]}", "run.evaluate_every=4"], nproc=1)
    assert code == 2, errors
    assert "probe.validation=None and run.evaluate_every=4: give all three for a probe, or none" in errors
