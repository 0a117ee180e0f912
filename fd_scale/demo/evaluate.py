"""The proof that the student learned, on photographs that neither teacher nor student was trained on.

Every row of the table predicts the teacher's whitened tokens of held-out crops. The baselines get a ridge regression
fitted on the training crops, so that each gives all that its features hold; the student is also shown with one, which
is what the exported file (without head) is good for.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import RidgeCV
from torch import Tensor

from fd_scale.data.decode import decode
from fd_scale.data.view import centre_view, normalise
from fd_scale.diagnosis.explained_variance import explained_variance
from fd_scale.errors import BadInput
from fd_scale.export import load_student
from fd_scale.files import parse_yaml, read_small
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.objective.normalise import whiten
from fd_scale.parallel.checkpoint.reader import CheckpointReader, newest_whole
from fd_scale.parallel.checkpoint.storage import checkpoints_of
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.teachers.teacher import Teacher

MAP_SIZE = 384
"""Pixels of the photographs whose feature maps are drawn."""


@dataclass(frozen=True)
class Maps:
    """Picture and two feature maps of one held-out photograph, (H, W, 3) in 0..1."""

    name: str
    picture: Tensor
    teacher: Tensor
    student: Tensor


@dataclass(frozen=True)
class Proof:
    rows: list[tuple[str, float]]
    """(predictor, explained share of the variance); baselines first, the student with its own head last."""
    baselines: int
    maps: list[Maps]
    crops: int

    @property
    def learned(self) -> bool:
        return self.rows[-1][1] > max(share for _, share in self.rows[: self.baselines])

    def as_text(self) -> str:
        lines = [f"   {name:<42} {share:>7.1%}" for name, share in self.rows]
        return "\n".join([f"   explained variance of the whitened target, {self.crops} held-out crops:", *lines])


def evaluate(crops: Path, run: Path, student_file: Path, photographs: list[Path]) -> Proof:
    """Measure on `crops`/heldout, and draw the maps of `photographs`."""
    try:
        config = parse_yaml(read_small(run / "config.yaml"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{run / 'config.yaml'} is damaged ({error}); remove the demo's folder to start again") from None
    student, origin = load_student(student_file)
    untrained = build_student(StudentConfig(**origin["student"]), origin["image_size"]).eval()
    initialise_all(untrained, seed=config["train"]["seed"])
    teacher_config = TeacherConfig(**config["teacher"])
    teacher = build_teacher(teacher_config, origin["image_size"])
    head = _head(run)

    train, held_out = (_views(crops / part, origin["image_size"]) for part in ("train", "heldout"))
    target_train, target = _targets(teacher, train), _targets(teacher, held_out)

    def share(features_train: Tensor, features: Tensor) -> float:
        return explained_variance(_ridge(features_train, target_train, features), target)

    def tokens(model: Backbone, images: Tensor) -> Tensor:
        return _map_tokens(model, normalise(images, teacher.mean, teacher.std)).flatten(0, 1)

    student_train, student_held_out = tokens(student, train), tokens(student, held_out)
    cell = origin["image_size"] // student.grid(origin["image_size"], origin["image_size"])[0]
    rows = [
        ("zero", explained_variance(torch.zeros_like(target), target)),
        ("pixel statistics, ridge", share(pixel_statistics(train, cell), pixel_statistics(held_out, cell))),
        ("untrained student, ridge", share(tokens(untrained, train), tokens(untrained, held_out))),
        ("student, ridge", share(student_train, student_held_out)),
        ("student, its own head", explained_variance(head(student_held_out), target)),
    ]
    wide_teacher = build_teacher(teacher_config, MAP_SIZE)
    return Proof(rows, 3, _maps(wide_teacher, student, head, photographs), len(held_out))


def pixel_statistics(images: Tensor, cell: int) -> Tensor:
    """Compute simple statistics of each cell of pixels, as a baseline that looks for nothing.

    (B, 3, H, W) uint8 -> (B*h*w, F).

    Mean, spread and mean absolute slopes of each colour in the cell of a token, the same of the whole image, and the
    squares of all.
    """
    values = images.float() / 255
    slope_x = F.pad(values.diff(dim=-1).abs(), (0, 1))
    slope_y = F.pad(values.diff(dim=-2).abs(), (0, 0, 0, 1))
    planes = torch.cat([values, values.square(), slope_x, slope_y], dim=1)  # (B, 12, H, W)
    local = F.avg_pool2d(planes, cell)  # (B, 12, h, w)
    local[:, 3:6] = (local[:, 3:6] - local[:, :3].square()).clamp(min=0).sqrt()
    whole = local.mean(dim=(2, 3), keepdim=True).expand_as(local)
    features = torch.cat([local, whole], dim=1).flatten(2).transpose(1, 2).flatten(0, 1)
    return torch.cat([features, features.square()], dim=1)


def _views(folder: Path, size: int) -> Tensor:
    return torch.stack([centre_view(Image.open(path), size) for path in sorted(folder.rglob("*.jpg"))])


@torch.inference_mode()
def _map_tokens(model: Backbone | Teacher, images: Tensor) -> Tensor:
    """(B, 3, H, W) normalised -> (B, h*w, C), prefix tokens dropped."""
    return torch.cat([model(part)[:, model.num_prefix_tokens :] for part in images.split(64)])


def _targets(teacher: Teacher, images: Tensor) -> Tensor:
    tokens = _map_tokens(teacher, normalise(images, teacher.mean, teacher.std))
    return whiten(tokens).flatten(0, 1)  # (N, C)


def _ridge(features_train: Tensor, target_train: Tensor, features: Tensor) -> Tensor:
    mean, std = features_train.mean(0), features_train.std(0).clamp(min=1e-6)
    ridge = RidgeCV(alphas=[10.0**k for k in range(-1, 6)])
    ridge.fit(((features_train - mean) / std).numpy(), target_train.numpy())
    return torch.from_numpy(ridge.predict(((features - mean) / std).numpy()))


def _head(run: Path) -> torch.nn.Linear:
    storage = checkpoints_of(run)
    step, _ = newest_whole(storage)
    assert step is not None, "export has just read it"
    reader = CheckpointReader(storage, step)
    outputs, inputs = reader.shape("head.weight")
    head = torch.nn.Linear(inputs, outputs).requires_grad_(False)
    head.weight.copy_(reader.read("head.weight").view(outputs, inputs))
    head.bias.copy_(reader.read("head.bias"))
    return head


def _maps(teacher: Teacher, student: Backbone, head: torch.nn.Linear, photographs: list[Path]) -> list[Maps]:
    """The first three principal components of the teacher's tokens as colours; the student's tokens by the same."""
    pictures = torch.stack([centre_view(decode(path.read_bytes()), MAP_SIZE) for path in photographs])
    images = normalise(pictures, teacher.mean, teacher.std)
    target = whiten(_map_tokens(teacher, images))  # (B, L, C)
    prediction = head(_map_tokens(student, images))
    rows_of_target = target.flatten(0, 1)  # (N, C)
    centre = rows_of_target.mean(0)
    _, components = torch.linalg.eigh((rows_of_target - centre).T.cov())
    axes = components[:, -3:].flip(1)  # (C, 3), largest variance first
    rows, columns = teacher.grid(MAP_SIZE, MAP_SIZE)
    projected = [((tokens - centre) @ axes).view(len(pictures), rows, columns, 3) for tokens in (target, prediction)]
    low, high = (projected[0].flatten(0, 2).quantile(q, dim=0) for q in (0.02, 0.98))
    coloured = [((p - low) / (high - low)).clamp(0, 1) for p in projected]
    return [
        Maps(path.stem, pictures[i].permute(1, 2, 0) / 255, coloured[0][i], coloured[1][i])
        for i, path in enumerate(photographs)
    ]
