"""Every kind of target, in this process: the loss of a micro-batch against the formula, with tiny teachers of timm."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from teachers.tiny_models import TINY_VIT, model_of, save_teacher
from torch import Tensor, nn

from fd_scale.config import load_config
from fd_scale.data.loader import Batch
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.parallel.ranks import Ranks
from fd_scale.pixels import PIXELS
from fd_scale.tasks.config import DistillConfig
from fd_scale.tasks.distillation import parts_of

ALONE = Ranks(0, 0, 1, torch.device("cpu"))
CLIP = "vit_base_patch16_clip_quickgelu_224.openai"
DINO = "vit_small_patch16_224.dino"
NAMES = {
    "clip": (CLIP, TINY_VIT),
    "dino": (DINO, {**TINY_VIT, "embed_dim": 24}),
    "coarse": (DINO, {**TINY_VIT, "patch_size": 32}),
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, tuple[nn.Module, Path]]:
    folder = tmp_path_factory.mktemp("teachers")
    made = {}
    for key, (name, kwargs) in NAMES.items():
        model = model_of(name, kwargs)
        facts = {"timm_model": name, "timm_kwargs": kwargs}
        made[key] = model, save_teacher(model, folder / f"{key}.safetensors", facts)
    return made


@pytest.fixture
def config(teachers, tmp_path):
    """Overrides -> a configuration with the CLIP-like teacher and a ViT."""

    def make(*overrides: str) -> DistillConfig:
        tree = {
            "run": {"folder": "never"},
            "data": {"train": "synthetic:8", "view": {"image_size": 64}},
            "teacher": {"spec": f"file:{teachers['clip'][1]}"},
            "student": {"name": "vit_tiny", "drop_path": 0},
            "train": {"global_batch": 3, "micro_batch": 3},
            "schedule": {"steps": 1},
            "parallel": {"precision": "fp32"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
        return load_config(DistillConfig, tmp_path / "config.yaml", overrides)

    return make


@torch.enable_grad()
def learned(config: DistillConfig) -> tuple[nn.Module, Tensor, Tensor]:
    """The model with its heads, images (B, 3, H, W) uint8, and the task's loss of them (B,)."""
    parts = parts_of(config, ALONE)
    model = parts.build()
    for name, parameter in model.named_parameters():
        parts.fill(name, parameter.data)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    task = parts.make_task()
    loss = task.loss_per_image(model, Batch(images, ["a", "b", "c"], [0, 1, 2], step=0).to(ALONE.device, seed=0))
    loss.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    task.after_step()
    return model, images, loss.detach()


def view(images: Tensor, model: nn.Module) -> Tensor:
    return normalise(images, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])


def students_view(images: Tensor) -> Tensor:
    return normalise(images, *PIXELS["imagenet"])  # whatever the teacher's, as released


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    return F.smooth_l1_loss(prediction, target, beta=2.0, reduction="none").flatten(1).mean(1)


@torch.no_grad()
def test_the_whitened_feature_map_with_its_class_token(config, teachers):
    model, images, loss = learned(config())
    clip = teachers["clip"][0]
    seen = view(images, clip)
    target = F.layer_norm(clip.forward_features(seen), (32,))  # (B, 1 + 16, 32)
    torch.testing.assert_close(loss, smooth_l1(model.head(model.student(students_view(images))), target))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gap", "logits"])
def test_pooled_features_and_logits_are_answered_by_the_mean_of_the_students_map(kind, config, teachers):
    model, images, loss = learned(config(f"target.kind={kind}", "target.normalise=l2", "loss.kind=mse"))
    clip = teachers["clip"][0]
    seen = view(images, clip)
    target = clip.forward_features(seen)[:, 1:].mean(1) if kind == "gap" else clip(seen)
    assert target.shape == (3, 32 if kind == "gap" else clip.num_classes)
    prediction = model.head(model.student(students_view(images))[:, 1:].mean(1))
    torch.testing.assert_close(loss, (prediction - F.normalize(target, dim=-1)).square().mean(1))


@torch.no_grad()
def test_each_teacher_has_a_head_a_weight_and_its_own_pixel_statistics(config, teachers):
    (clip, _), (dino, path) = teachers["clip"], teachers["dino"]
    model, images, loss = learned(config(f"more_teachers.dino.spec=file:{path}", "more_teachers.dino.weight=0.25"))
    assert clip.pretrained_cfg["mean"] != dino.pretrained_cfg["mean"]
    tokens = model.student(students_view(images))
    first = smooth_l1(model.head(tokens), F.layer_norm(clip.forward_features(view(images, clip)), (32,)))
    second = smooth_l1(model.more_heads["dino"](tokens), F.layer_norm(dino.forward_features(view(images, dino)), (24,)))
    torch.testing.assert_close(loss, first + 0.25 * second)


@torch.no_grad()
def test_a_coarser_teacher_is_resized_when_asked(config, teachers):
    coarse, path = teachers["coarse"]
    spec = f"teacher.spec=file:{path}"
    model, images, loss = learned(config(spec, "target.resize=bilinear", "target.normalise=none"))
    tokens = coarse.forward_features(view(images, coarse))
    token_map = tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    token_map = F.interpolate(token_map, (4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    target = torch.cat([tokens[:, :1], token_map], dim=1)
    torch.testing.assert_close(loss, smooth_l1(model.head(model.student(students_view(images))), target))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["teacher.spec=COARSE"], r"teacher's token grid is 2x2 and the student's 4x4 \(teacher: coarse.safetensors\)"),
        (["more_teachers.b.spec=COARSE"], r"student's 4x4 \(b: coarse.safetensors\); .* target\.resize=bilinear"),
        (["more_teachers.a/b.spec=DINO"], "more_teachers.a/b: a teacher cannot be called that; take letters"),
        (["more_teachers.teacher.spec=DINO"], "more_teachers.teacher: a teacher cannot be called that"),
        (["more_teachers.keys.spec=DINO"], "more_teachers.keys: a teacher cannot be called that"),
        (["more_teachers.b.spec=DINO", "more_teachers.b.weight=-1"], "more_teachers.b.weight = -1: give a number"),
        (["teacher.spec=DINO", "target.kind=logits"], "dino.safetensors has neither classifier nor projection"),
        (["target.calibration_steps=0"], "target.calibration_steps = 0: give a whole number from 1"),
        (["teacher.spec=DINO", "target.kind=gap", "loss.prefix_weight=2"], "loss.prefix_weight=2 weighs nothing"),
        (["student.name=swin_v2_nano", "target.prefix=keep"], r"student 0 \(teacher: clip.safetensors\)"),
        (["teacher.spec=NARROW", "target.normalise=phi_s"], "needs a Hadamard matrix, and none of order 36"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(overrides, line, config, teachers, tmp_path):
    name, kwargs = DINO, {**TINY_VIT, "embed_dim": 36}
    narrow = save_teacher(
        model_of(name, kwargs), tmp_path / "narrow.safetensors", {"timm_model": name, "timm_kwargs": kwargs}
    )
    for key, path in (("COARSE", teachers["coarse"][1]), ("DINO", teachers["dino"][1]), ("NARROW", narrow)):
        overrides = [word.replace(key, f"file:{path}") for word in overrides]
    with pytest.raises(BadInput, match=line):
        parts_of(config(*overrides), ALONE)


def test_a_misspelt_key_of_a_further_teacher_is_named(config):
    with pytest.raises(BadInput, match=r"unknown key `more_teachers\.dino\.wieght`; did you mean .*weight"):
        config("more_teachers.dino.spec=demo", "more_teachers.dino.wieght=2")
