"""Every number that compares labels compares them by the names of the classes."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from data.named import COLOURS, coloured
from safetensors.torch import load_file
from tasks.in_process import finetuned, group_of_one
from torch import Tensor

from fd_scale.api import export
from fd_scale.data.classes import Classes, Match
from fd_scale.data.config import EvaluationView
from fd_scale.data.evaluation import both_data
from fd_scale.errors import BadInput
from fd_scale.evaluate.classes import align, check_begin, rows_by_name
from fd_scale.evaluate.config import KnnConfig, LinearConfig, TrainingProbeConfig
from fd_scale.evaluate.features import Frozen, extract
from fd_scale.evaluate.knn import knn_accuracy
from fd_scale.evaluate.linear import linear_accuracy
from fd_scale.evaluate.training_probe import TrainingProbe
from fd_scale.evaluate.wise_ft import wise_ft
from fd_scale.export import load_classifier, write_student
from fd_scale.models.classifier import Classifier
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.weights.heads import kept_head
from fd_scale.models.zoo import build_student
from fd_scale.parallel.checkpoint.reader import RECORD
from fd_scale.parallel.checkpoint.storage import MANIFEST
from fd_scale.parallel.ranks import Ranks

ALONE = Ranks(0, 0, 1, torch.device("cpu"))
STATISTICS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory):
    with group_of_one(tmp_path_factory.mktemp("group")):
        yield


def plain(items, total, label):
    return items


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("named")
    given = {"train": NAMES, "all": NAMES, "without_ant": NAMES[1:], "strange": ("bee", "eel")}
    return {part: coloured(folder / part, dict.fromkeys(names, 4)) for part, names in given.items()}


def colour() -> Frozen:
    """A model whose one token is the mean colour."""

    def tokens(view: Tensor) -> Tensor:
        return view.mean(dim=(2, 3))[:, None]  # (B, 1, 3)

    return Frozen(tokens, torch.float32, 0, (0.5,) * 3, (0.5,) * 3, "colour")


@pytest.mark.parametrize("part", ["all", "without_ant"])
def test_frozen_features_are_judged_by_names(shards, part):
    train, validation = both_data(str(shards["train"]), str(shards[part]), 16, EvaluationView(), 0)
    features = [extract(colour(), data, 4, "mean", ALONE, plain) for data in (train, validation)]
    assert knn_accuracy(*features, KnnConfig((1,)), ALONE) == {1: 1.0}
    config = LinearConfig(base_lrs=(200.0,), epochs=60, warmup_epochs=2, batch=16)
    assert linear_accuracy(*features, config, ALONE, plain) == {200.0: 1.0}
    probe = TrainingProbe(TrainingProbeConfig(k=1), train, validation)
    assert probe.measure(colour(), ALONE, lambda: None) == {"knn": 1.0}


def test_a_class_that_training_does_not_have_is_named(shards):
    with pytest.raises(BadInput, match=r"class 'eel' of .*strange.* is not among the 4 classes of .*train"):
        both_data(str(shards["train"]), str(shards["strange"]), 16, EvaluationView(), 0)


def classifier(path: Path, names: tuple[str, ...] | None, weight: float, order: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
    """An export that tells the four colours apart, with the rows of its head, and so its names, in that order."""
    config = StudentConfig("vit_tiny", drop_path=0.0)
    model = Classifier(build_student(config, 16), 4, "fresh").eval()
    initialise_all(model, 1)
    colours = torch.tensor([COLOURS[name] for name in NAMES]).float()[:, :, None, None].expand(-1, -1, 16, 16)
    with torch.no_grad():
        seen = model.fc_norm(model.student(colours / 127.5 - 1)[:, 1:].mean(dim=1))  # (4, C)
        rows = torch.nn.functional.normalize(seen - seen.mean(dim=0))
        model.head.weight.copy_(weight * rows[list(order)])
        model.head.bias.copy_(-weight * (rows @ seen.mean(dim=0))[list(order)])
    tensors = {name.removeprefix("student."): tensor.detach() for name, tensor in model.named_parameters()}
    origin = {"student": vars(config), "image_size": 16, "pixels": STATISTICS, "norm": "fresh", "classes": 4}
    if names is not None:
        origin["class_names"] = {names[row]: number for number, row in enumerate(order)}
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_student(path, plan, json.loads(json.dumps(origin)), tensors.__getitem__)
    return path


ORDER = (2, 0, 3, 1)
RIGHT = [1.0, 1.0, 1.0]


def curve(first: Path, second: Path, shards: Path, out: Path | None = None) -> list[float]:
    entries = wise_ft(
        first, second, [str(shards)], ALONE, alphas=(0.0, 0.5, 1.0), out=out, batch=64, workers=0, view=EvaluationView()
    )
    return [entry[str(shards)] for entry in entries]


@pytest.mark.parametrize("orders", [((0, 1, 2, 3), ORDER), (ORDER, ORDER[::-1])])
def test_classifiers_are_mixed_class_by_class(shards, tmp_path, orders):
    """Neither the order of the rows of either, nor that the data lack a class, changes a number."""
    first = classifier(tmp_path / "first.safetensors", NAMES, 1.0, orders[0])
    second = classifier(tmp_path / "second.safetensors", NAMES, 2.0, orders[1])
    assert curve(first, second, shards["without_ant"], tmp_path / "mixed.safetensors") == RIGHT
    model, origin = load_classifier(tmp_path / "mixed.safetensors")
    known, there = load_classifier(first)[1]["class_names"], load_file(first)["head.weight"]
    assert origin["class_names"] == known
    weight = 1 + origin["wise_ft"]["alpha"]
    torch.testing.assert_close(model.head.weight, weight * there)


def test_a_classifier_without_names_is_matched_by_number_and_a_line_says_so(shards, tmp_path, capsys):
    named = classifier(tmp_path / "named.safetensors", NAMES, 1.0)
    old = classifier(tmp_path / "old.safetensors", None, 2.0)
    assert curve(named, old, shards["without_ant"]) == curve(old, named, shards["without_ant"]) == RIGHT
    assert capsys.readouterr().err.count("by number: no names in") == 2


def test_classifiers_of_other_classes_are_not_mixed(shards, tmp_path):
    first = classifier(tmp_path / "first.safetensors", NAMES, 1)
    second = classifier(tmp_path / "second.safetensors", ("ant", "bee", "cat", "eel"), 1)
    with pytest.raises(BadInput, match=r"class 'eel' of .*second.* is not among the 4 classes of .*first"):
        curve(first, second, shards["all"])


def test_rows_of_numbers_without_a_name_stay_with_each_other():
    first, second = Classes(3, {"ant": 0, "bee": 2}), Classes(3, {"ant": 0, "bee": 1})
    assert align(first, second)[0] == [0, 2, 1]
    with pytest.raises(BadInput, match="class 'bee'"):
        align(first, Classes(3, {"ant": 0}))


def test_a_kept_head_goes_on_class_by_class(tmp_path):
    path = classifier(tmp_path / "first.safetensors", NAMES, 1)
    before = load_file(path)
    lines: list[str] = []
    run = Classes(3, {"dog": 0, "bee": 2}, "train")
    head = kept_head(str(path), 3, "fresh", None, rows_by_name(run, str(path), lines))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(head[name][[0, 2]], before[name][[3, 1]])
        assert not head[name][1].any()
    assert lines == []
    with pytest.raises(BadInput, match=r"finetune.head=kept, but class 'eel' of train .* say in finetune.head_classes"):
        kept_head(str(path), 1, "fresh", None, rows_by_name(Classes(1, {"eel": 0}, "train"), str(path), lines))
    old = classifier(tmp_path / "old.safetensors", None, 1)
    run = Classes(4, dict(zip(NAMES, range(4), strict=True)), "train")
    head = kept_head(str(old), 4, "fresh", None, rows_by_name(run, str(old), lines))
    assert torch.equal(head["head.weight"], before["head.weight"])
    assert lines == [f"classes of train are matched with those of {old} by number: no names in {old}"]


RUN = Classes(2, {"ant": 0, "bee": 1}, "train")
SAME, MOVED = Match({0: 0, 1: 1}), Match({0: 1})


@pytest.mark.parametrize(
    ("record", "matches", "same_run", "line"),
    [
        (RUN.record(), [SAME, MOVED], True, ""),
        ({}, [MOVED], False, ""),
        ({"classes": 2}, [SAME], True, ""),
        ({"classes": 2}, [SAME], False, "matched with those of there by number: no names in there"),
    ],
)
def test_what_a_run_may_begin_with(record, matches, same_run, line):
    assert line in " ".join(check_begin(RUN, matches)(record, "there", same_run))


@pytest.mark.parametrize(
    ("record", "matches", "same_run", "line"),
    [
        ({"classes": 2}, [SAME, MOVED], True, "united by the numbers of their classes"),
        ({"classes": 2}, [SAME, MOVED], False, "united by the numbers of their classes"),
        ({"classes": 2, "class_names": {"ant": 1, "bee": 0}}, [SAME], True, "restore the manifest.json that it began"),
        ({"classes": 2, "class_names": {"ant": 1, "bee": 0}}, [SAME], False, "'ant' has number 1 in there and 0 in"),
        ({"classes": 2, "class_names": {"ant": 0, "cat": 1}}, [SAME], False, "class 'bee' of train is not among the 2"),
    ],
)
def test_what_a_run_may_not_begin_with(record, matches, same_run, line):
    with pytest.raises(BadInput) as refused:
        check_begin(RUN, matches)(record, "there", same_run)
    assert line in str(refused.value)


def test_a_mixture_trains_by_name_says_so_in_its_export_and_an_older_run_of_it_is_refused(shards, tmp_path, capsys):
    parts = [
        coloured(tmp_path / name, dict.fromkeys(pair, 8)) for name, pair in (("one", NAMES[2:]), ("two", NAMES[:2]))
    ]
    train, folder = f"{{{parts[0]}: 1, {parts[1]}: 1}}", tmp_path / "run"
    best = ["run.keep.best=ema_accuracy", "run.keep.best_is=highest", "train.ema_decay=0.9"]
    finetuned(folder, train, f"finetune.validation={shards['without_ant']}", *best)
    assert "4 classes, 12 images to validate on" in capsys.readouterr().err
    _, origin = load_classifier(export(folder, tmp_path / "out.safetensors", classifier=True))
    assert (origin["classes"], origin["class_names"]) == (4, dict(zip(NAMES, range(4), strict=True)))

    # What an earlier version left has no names, and its two data sets shared the numbers 0 and 1.
    saved = folder / "checkpoints" / "step_00000002"
    content = json.loads((saved / RECORD).read_text())
    del content["record"]["class_names"]
    text = json.dumps(content).encode()
    (saved / RECORD).write_bytes(text)
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["files"][RECORD] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="one number stood for several; its classifier is wrong: begin a new run"):
        finetuned(folder, train, f"finetune.validation={shards['without_ant']}", *best)
