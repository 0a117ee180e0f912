"""Fine-tuning on two real processes: it learns, counts each image once, resumes exactly, refuses what cannot work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.helpers import REPOSITORY
from support.session import once
from tasks.labelled import packed
from tasks.running import SUMMATION, in_folder, kill_after, losses, run, start

from fd_scale.api import export
from fd_scale.data.config import EvaluationView
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.export import load_classifier, load_student
from fd_scale.models.classifier import Classifier
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.weights.heads import kept_head
from fd_scale.models.zoo import build_student
from fd_scale.parallel.checkpoint.reader import WEIGHT, CheckpointReader
from fd_scale.parallel.checkpoint.storage import open_storage
from fd_scale.parallel.ema import EMA
from fd_scale.pixels import PIXELS
from fd_scale.tasks.job import initialiser


@pytest.fixture(scope="session")
def arguments(coloured) -> list[str]:
    train, validation = coloured
    return [
        "finetune",
        str(REPOSITORY / "configs/finetune/small.yaml"),
        f"data.train={train}",
        f"finetune.validation={validation}",
        "run.folder=nowhere",
        "data.view.image_size=32",
        "data.workers=0",
        "student.drop_path=0.1",
        "train.global_batch=16",
        "train.micro_batch=4",
        "schedule.steps=24",
        "schedule.warmup_steps=2",
        "schedule.base_lr=2e-2",
        "finetune.batch=4",
        "run.evaluate_every=8",
        "run.save_every=8",
        "run.log_every=1",
        "run.keep.best=accuracy",
        "run.keep.best_is=highest",
        "train.ema_decay=0.9",
    ]


@pytest.fixture(scope="session")
def finished(arguments) -> Path:
    def make(folder: Path) -> None:
        code, errors = run(in_folder(arguments, folder / "run"))
        assert code == 0, errors

    return once("finetuned", make) / "run"


def results(folder: Path) -> dict[int, dict[str, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in entries if "accuracy" in entry}


def test_it_learns_colours(finished):
    found = results(finished)
    assert set(found) == {8, 16, 24}
    assert found[24]["accuracy"] >= 0.9
    assert found[24]["validation_loss"] < found[8]["validation_loss"]


@pytest.mark.parametrize(("key", "prefix"), [(WEIGHT, ""), (EMA, "ema_")])
def test_validation_inside_equals_an_independent_count(finished, coloured, key, prefix):
    """21 images over two ranks in batches of four: neither divides. The moving average is validated beside."""
    reader = CheckpointReader(open_storage(finished / "checkpoints"), 24)
    model = Classifier(build_student(StudentConfig("swin_v2_nano", position_bias="per_block"), 32), 3, "kept").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(reader.read(name, key).view(parameter.shape))
        data = EvaluationData(str(coloured[1]), 32, EvaluationView(), workers=0)
        (batch,) = data.batches(0, 1, 21)
        logits = model(normalise(batch.images, *PIXELS["imagenet"]))
    expected = results(finished)[24]
    accuracy = (logits.argmax(dim=1) == batch.labels).float().mean().item()
    assert accuracy == pytest.approx(expected[f"{prefix}accuracy"])
    loss = torch.nn.functional.cross_entropy(logits, batch.labels).item()
    assert loss == pytest.approx(expected[f"{prefix}validation_loss"], rel=1e-5)
    assert expected["validation_loss"] != pytest.approx(expected["ema_validation_loss"], rel=1e-3)


def test_resume_equals_uninterrupted_and_one_rank_computes_the_same(finished, arguments, tmp_path):
    folder = tmp_path / "run"
    resumed = in_folder(arguments, folder)
    errors = kill_after(10, folder, start(resumed))
    assert losses(folder).keys() >= {8}, errors
    code, errors = run(resumed)
    assert code == 0, errors
    assert losses(folder) == losses(finished)
    assert results(folder)[24]["validation_loss"] == results(finished)[24]["validation_loss"]

    alone = [*in_folder(arguments, tmp_path / "alone"), "train.micro_batch=8", "schedule.steps=24", "run.stop_at=8"]
    code, errors = run(alone, nproc=1)
    assert code == 0, errors
    for step, loss in losses(tmp_path / "alone").items():
        assert loss == pytest.approx(losses(finished)[step], rel=10 * SUMMATION)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (["train.micro_batch=1"], "train.micro_batch=1 is odd, and mixup and cutmix take images in pairs"),
        (["finetune.classes=2"], "finetune.classes=2, but the labels of data.train number 3"),
        (["data.train=synthetic:64"], "64 of 64 samples in synthetic:64 have no label; pack class folders"),
        (["finetune.layer_decay=0"], "finetune.layer_decay = 0: give a number above 0 and at most 1"),
        (["finetune.validation=null"], "run.evaluate_every=8 without finetune.validation; give a folder of shards"),
        (["finetune.validation=synthetic:0"], "synthetic:0 is not `synthetic:N` with a number of samples"),
        (["schedule.base_lr=1e30"], "lower schedule.base_lr"),
        (["finetune.head=kept"], "student.weights=None; give what `fd-scale export RUN OUT --classifier` wrote"),
        (["finetune.head_classes=rows.txt"], "finetune.head_classes=rows.txt is of no use without finetune.head=kept"),
        (["finetune.validation=nowhere"], "nowhere holds no manifest.json; make shards with `fd-scale pack"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, tmp_path, changed, line):
    code, errors = run([*in_folder(arguments, tmp_path / "run"), *changed], nproc=1)
    assert code == 2, errors
    assert line in errors
    assert "Traceback" not in errors


def test_validation_data_of_more_classes_is_refused(arguments, tmp_path):
    others = packed(tmp_path / "others", ("a", "b", "c", "d"), 8, seed=2)
    code, errors = run([*in_folder(arguments, tmp_path / "run"), f"finetune.validation={others}"], nproc=1)
    assert code == 2, errors
    assert "is not among the 3 classes of" in errors


def test_mixtures_of_two_checkpoints_begin_and_end_with_their_own_accuracy(finished, coloured, tmp_path):
    first, second, best = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "best"))
    for step, path in ((16, first), (24, second)):
        export(finished, path, step=step, classifier=True)
    process = start(
        ["wise-ft", str(first), str(second), str(coloured[1]), "--alphas", "0", "0.5", "1", "--out", str(best)]
    )
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    shares = [float(line.split()[-1].rstrip("%")) / 100 for line in printed.splitlines() if "alpha" in line]
    found = results(finished)
    assert shares[0] == pytest.approx(found[16]["accuracy"], abs=1e-4)
    assert shares[2] == pytest.approx(found[24]["accuracy"], abs=1e-4)
    code, errors = run(["wise-ft", str(first), str(second), str(coloured[1]), "--crop", "0"], nproc=1)
    assert code == 2
    assert "crop=0.0: give a number from 0.01 to 1" in errors
    model, origin = load_classifier(best)
    alpha = origin["wise_ft"]["alpha"]
    assert shares[[0, 0.5, 1].index(alpha)] == max(shares)
    parts = load_file(first)["head.weight"], load_file(second)["head.weight"]
    torch.testing.assert_close(model.head.weight, (1 - alpha) * parts[0] + alpha * parts[1])


def test_a_student_without_its_classifier_cannot_be_mixed(finished, tmp_path):
    path = export(finished, tmp_path / "student.safetensors")
    code, errors = run(["wise-ft", str(path), str(path), "nowhere"], nproc=1)
    assert code == 2, errors
    assert "has no classifier; write it with `fd-scale export RUN student.safetensors --classifier`" in errors


@pytest.fixture(scope="session")
def classifier(finished) -> Path:
    name = "classifier.safetensors"
    return once("classifier", lambda folder: export(finished, folder / name, classifier=True)) / name


def test_a_kept_head_goes_on_where_it_ended(finished, arguments, classifier, tmp_path):
    """At a rate of all but 0, so that what the first step computes is what the run before ended with."""
    still = [f"student.weights={classifier}", "schedule.base_lr=1e-12", "schedule.steps=1", "schedule.warmup_steps=0"]
    still += ["schedule.warmup_base_lr=0", "schedule.min_base_lr=0", "run.evaluate_every=1"]
    code, errors = run([*in_folder(arguments, tmp_path / "kept"), *still, "finetune.head=kept"])
    assert code == 0, errors
    before, after = results(finished)[24], results(tmp_path / "kept")[1]
    assert after["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-5)


def test_classes_go_on_from_the_rows_that_a_file_names(classifier, tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("2\n-1\n0\n2\n")
    head, before = kept_head(str(classifier), 4, "kept", str(rows)), load_file(classifier)
    for name in ("head.weight", "head.bias"):
        assert torch.equal(head[name][[0, 2, 3]], before[name][[2, 0, 2]])
        assert not head[name][1].any()


@pytest.mark.parametrize(
    ("lines", "classes", "norm", "line"),
    [
        (None, 4, "kept", "has 3 classes and the new one 4; say in finetune.head_classes which goes on from which"),
        (None, 3, "fresh", r"has no norm behind the pooling \(fc_norm\); set finetune.norm=kept"),
        ("0\n1\n", 3, "kept", "has 2 lines for 3 classes; give one for each"),
        ("0\n1\n3\n", 3, "kept", r"rows.txt:3: 3 is no class of the file's head, which has 0 to 2; -1 stands for none"),
        ("0\n1\nx\n", 3, "kept", "rows.txt:3: x is no class"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(classifier, tmp_path, lines, classes, norm, line):
    rows = tmp_path / "rows.txt"
    if lines:
        rows.write_text(lines)
    with pytest.raises(BadInput, match=line):
        kept_head(str(classifier), classes, norm, str(rows) if lines else None)


def test_a_student_without_a_head_cannot_keep_it(finished, tmp_path):
    path = export(finished, tmp_path / "student.safetensors")
    with pytest.raises(BadInput, match=r"holds no head\.weight; write it with `fd-scale export RUN OUT --classifier`"):
        kept_head(str(path), 3, "kept", None)


def test_a_distilled_vit_gives_its_shared_bias_to_every_block_and_leaves_its_norm_behind(tmp_path):
    distilled = StudentConfig("vit_tiny", position_bias="shared", drop_path=0.0)
    student = build_student(distilled, 32)
    initialise_all(student, seed=3)
    with torch.no_grad():
        student.rel_pos_bias.relative_position_bias_table.normal_()
    save_file(student.state_dict(), tmp_path / "student.safetensors")
    config = replace(distilled, position_bias="per_block", weights=str(tmp_path / "student.safetensors"))

    def build() -> Classifier:
        return Classifier(build_student(config, 32), 5, "fresh")

    fill, (line,) = initialiser(build, config, 32, seed=0)
    assert "FD" in line or "matched" in line
    model = build().eval()
    for name, parameter in model.named_parameters():
        fill(name, parameter.data)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    student.norm = torch.nn.Identity()
    pooled = student.eval()(images)[:, 1:].mean(dim=1)
    with torch.no_grad():
        expected = torch.nn.functional.layer_norm(pooled, pooled.shape[1:], eps=1e-6)
        torch.testing.assert_close(model.fc_norm(model.student(images)[:, 1:].mean(dim=1)), expected)
        assert model(images).abs().max() < 0.01  # even odds at the start


def test_an_export_of_a_fine_tuned_student_is_one_that_can_be_looked_at(finished, tmp_path):
    student, origin = load_student(export(finished, tmp_path / "student.safetensors"))
    assert origin["classes"] == 3
    assert student(torch.zeros(1, 3, 32, 32)).isfinite().all()
