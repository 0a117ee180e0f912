"""Frozen features of labelled images, for kNN and the linear probe: one vector for each image, spread over the ranks.

A model is an exported student or a teacher. Its feature is the mean of its map tokens behind its own final norm (the
released code's choice), or its first prefix token. Every image is computed once, and stays on the rank that did.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import Pool, ProbeConfig
from fd_scale.export import STUDENT_KEY, load_student
from fd_scale.models.backbone import Backbone
from fd_scale.models.precision import cast
from fd_scale.parallel.engine import Engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.progress import Progress
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher


@dataclass(frozen=True)
class Frozen:
    """A model whose tokens are measured, with what its images need."""

    model: Callable[[Tensor], Tensor]
    """(B, 3, H, W) normalised -> (B, P+L, C)"""
    dtype: torch.dtype
    num_prefix_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str


@dataclass(frozen=True)
class Features:
    """Features of this rank's images, and how many images the other ranks have."""

    values: Tensor
    """(N, C) fp32 on the host"""
    labels: Tensor
    """(N,) int64"""
    first: int
    """Position of the first of them in the data set."""
    counts: tuple[int, ...]
    """Images of each rank."""
    classes: int
    """All labels are below it."""

    @property
    def samples(self) -> int:
        """Number of images of all ranks."""
        return sum(self.counts)


def open_model(config: ProbeConfig, device: torch.device) -> Frozen:
    """Open the model that a configuration names, in eval mode.

    Raises:
        BadInput: nothing of that name, or images of a size that it does not take.
    """
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    if Path(config.model).suffix == ".safetensors" and ":" not in config.model:
        student, pixels = _open_student(Path(config.model), config.image_size)
        statistics = tuple(pixels["mean"]), tuple(pixels["std"])
        return Frozen(cast(student, device, dtype), dtype, student.num_prefix_tokens, *statistics, config.model)
    teacher = build_teacher(TeacherConfig(config.model, config.weights_key), config.image_size)
    statistics = teacher.mean, teacher.std
    return Frozen(cast(teacher, device, dtype), dtype, teacher.num_prefix_tokens, *statistics, teacher.description)


@contextlib.contextmanager
def in_training(
    engine: Engine, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> Iterator[Frozen]:
    """Give the student of a model that an engine trains, as it is now.

    It is called through the engine.

    The engine runs whole, and a hook looks at what the student gives on the way: under ZeRO-3 a part that is called
    alone would break the order in which parameters are fetched.
    """
    seen: list[Tensor] = []
    student = engine.module.student
    hook = student.register_forward_hook(lambda module, given, tokens: seen.append(tokens))

    def tokens(view: Tensor) -> Tensor:
        seen.clear()
        engine(view)
        return seen[0]

    engine.eval()
    try:
        yield Frozen(tokens, dtype, student.num_prefix_tokens, mean, std, "the student in training")
    finally:
        hook.remove()
        engine.train()


def extract(frozen: Frozen, data: EvaluationData, batch: int, pool: Pool, ranks: Ranks, progress: Progress) -> Features:
    """Compute the features of this rank's share of a data set, `batch` images at a time.

    All ranks call the model equally often.

    Raises:
        BadInput: an image that does not decode, or a feature that is not finite; on this rank alone, so that callers
            agree before the next collective.
    """
    values, labels = [], []
    with torch.no_grad():
        batches = data.batches(ranks.rank, ranks.world, batch)
        for found in progress(batches, data.batches_of_a_rank(ranks.world, batch), f"features of {data.source}"):
            view = normalise(found.images.to(ranks.device), frozen.mean, frozen.std).to(frozen.dtype)
            feature = pooled(frozen.model(view), frozen.num_prefix_tokens, pool)  # (B, C)
            values.append(feature.float().cpu()[found.real])
            labels.append(found.labels[found.real])
    wrong = sum(int((~value.isfinite()).any(dim=1).sum()) for value in values)
    if wrong:
        raise BadInput(
            f"{wrong} features of {data.source} hold NaN or infinity: {frozen.description} or its precision "
            f"({str(frozen.dtype).removeprefix('torch.')}) is not fit to be measured"
        )
    borders = [data.first_of(rank, ranks.world) for rank in range(ranks.world + 1)]
    counts = tuple(after - before for before, after in pairwise(borders))
    return Features(torch.cat(values), torch.cat(labels), borders[ranks.rank], counts, data.classes.count)


def pooled(tokens: Tensor, num_prefix_tokens: int, pool: str) -> Tensor:
    """Pool tokens (B, P+L, C) to features (B, C)."""
    if pool == "mean":
        return tokens[:, num_prefix_tokens:].mean(dim=1)
    if num_prefix_tokens == 0:
        raise BadInput("probe.pool=prefix, but this model has no prefix token; use probe.pool=mean")
    return tokens[:, 0]


def _open_student(path: Path, image_size: int) -> tuple[Backbone, dict[str, list[float]]]:
    if not path.is_file():
        raise BadInput(f"probe.model: no file {path.absolute()}")
    try:
        with safe_open(path, framework="pt") as file:
            known = STUDENT_KEY in (file.metadata() or {})
    except SafetensorError as error:
        raise BadInput(f"probe.model: {path} is not a whole safetensors file: {error}") from None
    if not known:
        raise BadInput(
            f"probe.model: {path} is no export of `fd-scale export`; a teacher's file is written file:{path}"
        )
    student, origin = load_student(path)
    if image_size != origin["image_size"]:
        raise BadInput(
            f"probe.image_size={image_size}, but {path} was trained at {origin['image_size']} px; set that size"
        )
    return student, origin["pixels"]
