"""One step of distillation against the released class, with tiny teachers of the published classes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.parity import EXACT, TIMES, Published, Tensors, error, largest_error, published, row
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from fd_scale.models.vit import ViT
from fd_scale.models.weights.fitting import fit
from fd_scale.objective.config import LossConfig, TargetConfig
from fd_scale.objective.head import StudentWithHeads
from fd_scale.objective.loss import loss_per_image
from fd_scale.objective.normalise import make_normaliser
from fd_scale.objective.target import match_tokens, teacher_side
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.teachers.teacher import Teacher

SIZE = 16
TEACHERS = {
    # timm's model, prefix of its weights in the published checkpoint, what timm wants instead, width of a projection
    "fd_step_clip": ("vit_base_patch16_clip_quickgelu_224.openai", "feature_model.visual.", "visual.", 8),
    "fd_step_dino": ("vit_base_patch16_224.dino", "feature_model.", "", 0),
}


def teacher_of(case: str, reference: Published, tmp_path) -> Teacher:
    name, prefix, wanted, projection = TEACHERS[case]
    state = reference.part("state")
    weights = {wanted + key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    kwargs = {"img_size": SIZE, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": projection}
    facts = {"timm_model": name, "timm_kwargs": kwargs}
    save_file(weights, tmp_path / "teacher.safetensors", metadata={"fd_scale_teacher": json.dumps(facts)})
    return build_teacher(TeacherConfig(f"file:{tmp_path / 'teacher.safetensors'}"), SIZE)


def step(reference: Published, teacher: Teacher, dtype: torch.dtype) -> tuple[dict[str, Tensors], Tensors]:
    """What the released class computes, by our parts, and its own gradients by our names."""
    student = ViT(16, 2, 2, image_size=SIZE, patch_size=4, drop_path=0.0)
    match = match_tokens(
        TargetConfig(),
        teacher="teacher",
        teacher_prefix=teacher.num_prefix_tokens,
        student_prefix=student.num_prefix_tokens,
        teacher_grid=teacher.grid(SIZE, SIZE),
        student_grid=student.grid(SIZE, SIZE),
        image_size=SIZE,
    )
    model = StudentWithHeads(student, teacher.width, match)
    model.load_state_dict(by_our_names(model, reference.part("state")), strict=True)
    model, teacher = model.to(dtype), teacher.to(dtype)

    teacher_tokens = teacher_side(teacher(teacher_pixels(reference, teacher).to(dtype)), match)
    target = make_normaliser("whiten", teacher.width, torch.device("cpu"))(teacher_tokens)
    (prediction,) = model(reference.tensors["images"].to(dtype))
    loss = loss_per_image(prediction, target, LossConfig(), match.prefix).mean()
    loss.backward()
    ours = {
        "teacher_tokens": {"": teacher_tokens},
        "target": {"": target},
        "prediction": {"": prediction.detach()},
        "loss": {"": loss.detach()},
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
    }
    return ours, by_our_names(model, reference.part("gradient"))


def by_our_names(model: StudentWithHeads, tensors: Tensors) -> Tensors:
    student = fit(model.student, tensors).tensors
    head = {"head.weight": tensors["decoder.0.weight"].squeeze(-1), "head.bias": tensors["decoder.0.bias"]}
    return {**{f"student.{name}": tensor for name, tensor in student.items()}, **head}


def teacher_pixels(reference: Published, teacher: Teacher) -> Tensor:
    """The student's view, which has ImageNet's statistics in the released code, in the teacher's own."""
    images = reference.tensors["images"].double()
    pixels = images * channels(IMAGENET_DEFAULT_STD) + channels(IMAGENET_DEFAULT_MEAN)
    return (pixels - channels(teacher.mean)) / channels(teacher.std)


def channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize("case", TEACHERS)
def test_target_prediction_loss_and_gradients_of_a_step_are_the_published_ones(case, tmp_path):
    reference = published(case)
    teacher = teacher_of(case, reference, tmp_path)
    pixels = teacher_pixels(reference, teacher)
    torch.testing.assert_close(pixels, reference.tensors["teacher_images"], rtol=0, atol=EXACT)

    single, _ = step(reference, teacher, torch.float32)
    exact, gradients = step(reference, teacher, torch.float64)
    names = ("teacher_tokens", "target", "prediction", "loss")
    wanted = {name: {"": reference.tensors[name]} for name in names} | {"gradients": gradients}
    in_fp64 = {name: largest_error(exact[name], wanted[name]) for name in wanted}
    in_fp32 = {name: error(single[name], wanted[name]) for name in wanted}
    theirs = reference.facts["fp32_error"]
    theirs["loss"] = max(theirs["loss"], theirs["prediction"])  # one number can be right by chance
    row(case, in_fp64, in_fp32, theirs)
    for name in wanted:
        assert in_fp64[name] < EXACT, name
        assert in_fp32[name] < TIMES * theirs[name], name
