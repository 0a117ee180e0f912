"""Frozen features of labelled images, for kNN and the linear probe: one vector for each image, spread over the ranks.

A model is an exported student or a teacher. Its feature is the mean of its map tokens behind its own final norm (the
released code's choice), or its first prefix token. Every image is computed once, and stays on the rank that did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.view import EvaluationView, normalise
from fd_scale.errors import BadInput
from fd_scale.export import KEY, load_student
from fd_scale.parallel.ranks import Ranks
from fd_scale.teachers import TeacherConfig, build_teacher

Progress = Callable[[Any, int, str], Any]


@dataclass(frozen=True)
class ProbeConfig:
    """What kNN and the linear probe look at."""

    model: str
    """A file that `fd-scale export` wrote, or a teacher: timm:NAME, timm:NAME@PATH, file:PATH or demo."""
    train: str
    validation: str
    """Folders of labelled shards."""
    image_size: int = 224
    view: EvaluationView = EvaluationView()
    pool: Literal["mean", "prefix"] = "mean"
    batch: int = 64
    """Images that a rank computes at a time."""
    workers: int = 4
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Frozen:
    """A model whose tokens are looked at."""

    model: nn.Module
    """(B, 3, H, W) normalised -> (B, P+L, C)"""
    num_prefix_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str


@dataclass(frozen=True)
class Features:
    """Those of this rank."""

    values: Tensor
    """(N, C) fp32 on the host"""
    labels: Tensor
    """(N,) int64"""
    first: int
    """Place of the first of them in the data set."""
    counts: tuple[int, ...]
    """Images of each rank."""
    classes: int

    @property
    def samples(self) -> int:
        """Of all ranks."""
        return sum(self.counts)


def open_model(spec: str, image_size: int) -> Frozen:
    """The model that a `ProbeConfig` names, on the host, in eval mode.

    Raises:
        BadInput: nothing of that name, or images of a size that it does not take.
    """
    if Path(spec).suffix == ".safetensors" and ":" not in spec:
        return _open_student(Path(spec), image_size)
    teacher = build_teacher(TeacherConfig(spec), image_size)
    return Frozen(teacher, teacher.num_prefix_tokens, teacher.mean, teacher.std, teacher.description)


def extract(
    frozen: Frozen,
    source: str,
    config: ProbeConfig,
    ranks: Ranks,
    progress: Progress = lambda items, total, label: items,
) -> Features:
    """Features of this rank's share of a data set. Collective only in that every rank must do its own.

    Raises:
        BadInput: the data set is missing, damaged, without labels, or holds an image that does not decode.
    """
    data = EvaluationData(source, config.image_size, config.view, config.workers)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model = frozen.model.to(ranks.device, dtype)
    values, labels = [], []
    batches = data.batches(ranks.rank, ranks.world, config.batch)
    with torch.no_grad():
        for batch in progress(batches, data.batches_of_a_rank(ranks.world, config.batch), f"features of {source}"):
            view = normalise(batch.images.to(ranks.device), frozen.mean, frozen.std).to(dtype)
            values.append(pooled(model(view), frozen.num_prefix_tokens, config.pool).float().cpu()[batch.real])
            labels.append(batch.labels[batch.real])
    borders = [data.first_of(rank, ranks.world) for rank in range(ranks.world + 1)]
    counts = tuple(after - before for before, after in pairwise(borders))
    return Features(torch.cat(values), torch.cat(labels), borders[ranks.rank], counts, data.classes)


def pooled(tokens: Tensor, num_prefix_tokens: int, pool: str) -> Tensor:
    """(B, P+L, C) -> (B, C)"""
    if pool == "mean":
        return tokens[:, num_prefix_tokens:].mean(dim=1)
    if num_prefix_tokens == 0:
        raise BadInput("probe.pool=prefix, but this model has no prefix token; use probe.pool=mean")
    return tokens[:, 0]


def _open_student(path: Path, image_size: int) -> Frozen:
    if not path.is_file():
        raise BadInput(f"probe.model: no file {path.absolute()}")
    try:
        with safe_open(path, framework="pt") as file:
            known = KEY in (file.metadata() or {})
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
    pixels = origin["pixels"]
    return Frozen(student, student.num_prefix_tokens, tuple(pixels["mean"]), tuple(pixels["std"]), str(path))
