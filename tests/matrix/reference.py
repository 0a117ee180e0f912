"""What a row must compute: a plain loop of PyTorch in fp32 and in one process, without DeepSpeed.

From the library come the models with their initial values, frozen teachers, the order of the samples and their views,
and the keys of drop path; each has tests of its own. Target, normalisation, loss, accumulation, clipping, optimizer,
learning rate and average are written out here.

Letters as in `fd_scale.objective`: B images, P prefix tokens, T tokens that face each other, C channels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from matrix.pairs import Row
from matrix.rows import CALIBRATION_STEPS, GLOBAL_BATCH, IMAGE_SIZE, overrides
from torch import Tensor, nn

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, ViewConfig
from fd_scale.data.loader import TrainingData
from fd_scale.keyed import sample_keys
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.objective.hadamard import hadamard
from fd_scale.objective.head import StudentWithHeads
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.teachers.teacher import Teacher

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RUN = yaml.safe_load((Path(__file__).parent / "run.yaml").read_text())
STEPS = RUN["schedule"]["steps"]
DECAY_OF_AVERAGE = 0.28
EPS = 1e-5
BETA = 2.0

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Computed:
    losses: list[float]
    gradient_norms: list[float]
    """Before they are clipped."""
    rates: list[float]
    before: Weights
    """Of the student without its head, as the next two."""
    after: Weights
    average: Weights


@cache
def reference(
    student: str,
    position_bias: str,
    teacher: str,
    target: str,
    normalise: str,
    loss: str,
    folder: Path,
    shards: Path,
    rotation: Tensor | None = None,
) -> Computed:
    """Of the factors that say what is computed; the others say how, and must change nothing.

    `rotation`: (C, C) of PHI-S in place of its own, where rounding decides between axes of nearly equal variance.
    """
    seed = RUN["train"]["seed"]
    asked = section("student", {"student": student, "position_bias": position_bias})
    backbone = build_student(StudentConfig(**{**RUN["student"], **asked}), IMAGE_SIZE)
    frozen = build_teacher(TeacherConfig(f"file:{folder / teacher}.safetensors"), IMAGE_SIZE, target == "logits")
    model = StudentWithHeads(backbone, frozen.width)
    initialise_all(model, seed)
    before = copied(backbone)
    average = copied(backbone)

    batches = list(global_batches(shards, seed))
    with torch.no_grad():
        tokens = [
            teacher_tokens(frozen, pixels(images, frozen.mean, frozen.std), backbone, target) for images, _ in batches
        ]
    targets = phi_s(tokens, rotation) if normalise == "phi_s" else NORMALISED[normalise](tokens)

    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.999), eps=1e-8)
    losses, norms, rates = [], [], []
    model.train()
    for step, (images, positions) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        keys = sample_keys(seed, step, positions)
        prediction = model.head(student_tokens(backbone(pixels(images, *IMAGENET), keys), frozen, backbone, target))
        value = LOSSES[loss](prediction, targets[step]).mean()  # all images, and in each all tokens, count the same
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), RUN["optim"]["clip"])
        optimizer.step()
        done = step + 1
        decay = min(DECAY_OF_AVERAGE, (1 + done) / (10 + done))
        for name, parameter in backbone.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
        losses.append(value.item())
        norms.append(norm.item())
        rates.append(learning_rate(step))
    return Computed(losses, norms, rates, before, copied(backbone), average)


def section(name: str, row: Row) -> dict[str, object]:
    """What a row says of one section of the configuration."""
    words = (word.removeprefix(f"{name}.").split("=", 1) for word in overrides(row) if word.startswith(f"{name}."))
    return {key: yaml.safe_load(value) for key, value in words}


def copied(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def global_batches(shards: Path, seed: int) -> Iterator[tuple[Tensor, list[int]]]:
    """(B, 3, H, W) uint8 and the position of each image in the global batch, which need not be read in order."""
    data = TrainingData(DataConfig(str(shards), ViewConfig(IMAGE_SIZE), workers=0), seed)
    for batch in data.micro_batches(range(STEPS), 0, BatchPlan(GLOBAL_BATCH, GLOBAL_BATCH, 1)):
        yield batch.images, batch.positions


def pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine, of rates that are given for a global batch of 512."""
    said = RUN["schedule"]
    peak, first, last = (said[name] * GLOBAL_BATCH / 512 for name in ("base_lr", "warmup_base_lr", "min_base_lr"))
    warmup = said["warmup_steps"]
    if step < warmup:
        return first + (peak - first) * step / warmup
    return last + (peak - last) * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2


def parameter_groups(model: StudentWithHeads) -> list[dict]:
    """Matrices decay; biases, norms and what the student names do not."""
    exempt = {f"student.{name}" for name in model.student.no_weight_decay()}
    named = list(model.named_parameters())
    kept = {name for name, parameter in named if parameter.ndim < 2 or name.endswith(".bias") or name in exempt}
    return [
        {"params": [parameter for name, parameter in named if name not in kept], "weight_decay": 0.05},
        {"params": [parameter for name, parameter in named if name in kept], "weight_decay": 0.0},
    ]


def teacher_tokens(teacher: Teacher, images: Tensor, student: nn.Module, target: str) -> Tensor:
    """(B, T, C)"""
    tokens = teacher(images)
    if target == "logits":
        return tokens  # (B, 1, classes)
    prefix, token_map = tokens.tensor_split([teacher.num_prefix_tokens], dim=1)
    if target == "gap":
        return token_map.mean(dim=1, keepdim=True)
    there, here = teacher.grid(IMAGE_SIZE, IMAGE_SIZE), student.grid(IMAGE_SIZE, IMAGE_SIZE)
    if there != here:  # the row asks for it, or it would have been refused
        planes = token_map.transpose(1, 2).unflatten(2, there)
        planes = F.interpolate(planes, here, mode="bilinear", antialias=True, align_corners=False)
        token_map = planes.flatten(2).transpose(1, 2)
    return torch.cat([prefix, token_map], dim=1) if prefix_faces(teacher, student, target) else token_map


def student_tokens(tokens: Tensor, teacher: Teacher, student: nn.Module, target: str) -> Tensor:
    """(B, P+L, Cs) -> (B, T, Cs)"""
    if target in ("gap", "logits"):
        return tokens[:, student.num_prefix_tokens :].mean(dim=1, keepdim=True)
    return tokens if prefix_faces(teacher, student, target) else tokens[:, student.num_prefix_tokens :]


def prefix_faces(teacher: Teacher, student: nn.Module, target: str) -> bool:
    return target != "map_only" and teacher.num_prefix_tokens == student.num_prefix_tokens


def standardised(batches: list[Tensor]) -> list[Tensor]:
    return [((tokens - rows.mean(0)) / (variance(rows) + EPS).sqrt()).float() for tokens, rows in with_seen(batches)]


def phi_s(batches: list[Tensor], rotation: Tensor | None = None) -> list[Tensor]:
    """arXiv 2410.01680, with the rotation of the calibration's tokens, which leaves all channels one variance."""
    axes = phi_s_rotation(batches)
    if rotation is not None:
        assert_even(rotation.double(), batches)
        axes = rotation.double()
    return [
        ((tokens - rows.mean(0)) @ axes.T / (variance(rows).mean() + EPS).sqrt()).float()
        for tokens, rows in with_seen(batches)
    ]


def phi_s_rotation(batches: list[Tensor]) -> Tensor:
    """R = H Uᵀ (C, C) fp64 by eigenvectors U of the covariance, in each of which the largest number is positive."""
    _, axes = torch.linalg.eigh(torch.cov(of_calibration(batches).T, correction=0))
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return hadamard(len(axes)) @ axes.T / len(axes) ** 0.5


def assert_even(rotation: Tensor, batches: list[Tensor]) -> None:
    """It is orthogonal, and of the channels that it makes none has much more variance than another."""
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(len(rotation), dtype=torch.float64), atol=1e-5, rtol=0)
    rotated = variance(of_calibration(batches) @ rotation.T)
    assert (rotated / rotated.mean() - 1).abs().max() < 0.1


def of_calibration(batches: list[Tensor]) -> Tensor:
    """(N, C) fp64"""
    return torch.cat(batches[:CALIBRATION_STEPS]).flatten(0, 1).double()


def with_seen(batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch with the tokens (N, C) that statistics are of in its step: of the calibration, and then of all before.

    That is the same in three steps, of which the calibration saw two; `tests/objective` looks at more.
    """
    for step, tokens in enumerate(batches):
        yield tokens.double(), torch.cat(batches[: max(step, CALIBRATION_STEPS)]).flatten(0, 1).double()


def variance(rows: Tensor) -> Tensor:
    return rows.var(0, correction=0)


def whitened(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def each(function: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    return lambda batches: [function(tokens) for tokens in batches]


NORMALISED: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "whiten": each(whitened),
    "l2": each(lambda tokens: tokens / tokens.norm(dim=-1, keepdim=True)),
    "none": each(lambda tokens: tokens),
    "standardise": standardised,
}


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    difference = (prediction - target).abs()
    return torch.where(difference < BETA, difference.square() / (2 * BETA), difference - BETA / 2)


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    return 1 - (prediction * target).sum(-1) / (prediction.norm(dim=-1) * target.norm(dim=-1))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": smooth_l1,
    "mse": lambda prediction, target: (prediction - target).square(),
    "cosine": cosine,
}
