"""`python -m fd_scale_downstream check ade20k|voc ROOT`: is a data set whole, and the one that configs expect?

Half a data set, maps in colours, or the release with 847 classes do not stop a training: they give a wrong number. So
every image must have its map, of its size, in one channel, with no value that is no class; and the counts must be those
of the release. All maps are read, in several processes; `--quick` leaves that out.

Source of layouts and counts: MMSegmentation's docs/en/user_guides/2_dataset_prepare.md; the counts are the releases'.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fd_scale.children import EndWithParent
from fd_scale.errors import BadInput
from fd_scale.progress import Progress, silent

IGNORED = 255
SHOWN = 3
"""Examples of each problem."""


class Pair(NamedTuple):
    name: str
    image: Path
    map: Path


@dataclass(frozen=True)
class Split:
    name: str
    count: int
    """Images in the release."""
    pairs: Callable[[Path], list[Pair]]
    """What there is, or should be, below the root."""


@dataclass(frozen=True)
class DataSet:
    title: str
    inside: str
    """The folder of the release, which ROOT is or holds."""
    splits: tuple[Split, ...]
    highest: int
    """Value of a map, besides 255, which is ignored."""
    palette: bool
    """Whether maps may have one: MMSegmentation reads such maps by their numbers, with Pillow."""
    gigabytes: float
    """Of the release, unpacked."""
    others: tuple[tuple[str, str], ...] = ()
    """(pattern of files that only another release has, what that release is)."""


def _by_folder(images: str, maps: str, root: Path) -> list[Pair]:
    """All that has an image or a map."""
    found = {path.stem for path in (root / images).glob("*.jpg")} | {path.stem for path in (root / maps).glob("*.png")}
    return [Pair(name, root / images / f"{name}.jpg", root / maps / f"{name}.png") for name in sorted(found)]


def _by_list(listed: str, maps: str, root: Path) -> list[Pair]:
    path = root / "ImageSets" / "Segmentation" / f"{listed}.txt"
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
    return [Pair(name, root / "JPEGImages" / f"{name}.jpg", root / maps / f"{name}.png") for name in names]


DATA_SETS = {
    "ade20k": DataSet(
        "ADE20K, 150 classes",
        "ADEChallengeData2016",
        (
            Split("training", 20_210, partial(_by_folder, "images/training", "annotations/training")),
            Split("validation", 2_000, partial(_by_folder, "images/validation", "annotations/validation")),
        ),
        highest=150,
        palette=False,
        gigabytes=1.1,
        others=(("**/*_seg.png", "the full release, of 847 and more classes"), ("**/*_atr.txt", "the full release")),
    ),
    "voc": DataSet(
        "PASCAL VOC 2012 with the maps of SBD",
        "VOCdevkit/VOC2012",
        (
            Split("train", 1_464, partial(_by_list, "train", "SegmentationClass")),
            Split("val", 1_449, partial(_by_list, "val", "SegmentationClass")),
            Split("trainaug", 10_582, partial(_by_list, "trainaug", "SegmentationClassAug")),
        ),
        highest=20,
        palette=True,
        gigabytes=2.2,
    ),
}


@dataclass
class Found:
    """What one split turned out to be."""

    split: Split
    pairs: int = 0
    values: Counter[int] = field(default_factory=Counter)
    """Maps that hold a value, by value."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong -> the names that it is wrong with."""

    def add(self, problem: str, name: str) -> None:
        self.problems.setdefault(problem, []).append(name)


def check_data(
    kind: str, root: Path, *, quick: bool = False, workers: int | None = None, progress: Progress = silent
) -> list[Found]:
    """Look at a data set.

    Args:
        kind: of `DATA_SETS`.
        root: the folder of the release, or the one that holds it.
        quick: look at names and sizes of images alone.
        workers: processes that read maps, by default one a core.

    Returns:
        What each split turned out to be.

    Raises:
        BadInput: there is no such folder, or it holds another release.
    """
    data_set = DATA_SETS[kind]
    folder = root / data_set.inside if (root / data_set.inside).is_dir() else root
    if not folder.is_dir():
        raise BadInput(f"there is no folder {root}; give the one that {data_set.inside} was unpacked to")
    for pattern, release in data_set.others:
        other = next(folder.glob(pattern), None)
        if other is not None:
            raise BadInput(f"{root} holds {other.name}: it is {release}; {data_set.title}, is another download")
    return [_check_split(data_set, split, folder, quick, workers, progress) for split in data_set.splits]


def summary(kind: str, found: Sequence[Found]) -> str:
    """Describe each split for people: a line, and what is wrong with it."""
    lines = [DATA_SETS[kind].title]
    for one in found:
        values = f", values {min(one.values)} to {max(one.values)}" if one.values else ""
        lines.append(f"  {one.split.name:<11}{one.pairs:>7} of {one.split.count} images with maps{values}")
        for problem, names in one.problems.items():
            examples = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            lines.append(f"             {len(names)} {problem}: {examples}")
    return "\n".join(lines)


def refuse_damage(kind: str, root: Path, found: Sequence[Found]) -> None:
    """Refuse a data set of which a split is not whole; the line says which, and what to do."""
    for one in found:
        total = sum(len(names) for names in one.problems.values())
        if total or one.pairs != one.split.count:
            first = next((f", first: {names[0]} {problem}" for problem, names in one.problems.items()), "")
            raise BadInput(
                f"{root}: {one.split.name} has {one.pairs} of {one.split.count} images with maps, problems: {total}"
                f"{first}; unpack the release again ({DATA_SETS[kind].gigabytes:g} GB)"
            )


def _check_split(
    data_set: DataSet, split: Split, folder: Path, quick: bool, workers: int | None, progress: Progress
) -> Found:
    found = Found(split)
    there: list[Pair] = []
    for pair in split.pairs(folder):
        if not pair.image.is_file():
            found.add("lack their image", pair.name)
        elif not pair.map.is_file():
            found.add("lack their map", pair.name)
        else:
            there.append(pair)
    found.pairs = len(there)
    look = partial(_look, data_set=data_set, quick=quick)
    for pair, (problem, values) in zip(
        there, progress(_looked(look, there, workers), len(there), split.name), strict=True
    ):
        if problem:
            found.add(problem, pair.name)
        found.values.update(values)
    return found


def _looked(
    look: Callable[[Pair], tuple[str, list[int]]], pairs: Sequence[Pair], workers: int | None
) -> Iterator[tuple[str, list[int]]]:
    count = min(workers or len(os.sched_getaffinity(0)), max(1, len(pairs) // 64))
    if count <= 1:
        yield from map(look, pairs)
        return
    with get_context("fork").Pool(count, EndWithParent()) as pool:
        yield from pool.imap(look, pairs, chunksize=32)


def _look(pair: Pair, *, data_set: DataSet, quick: bool) -> tuple[str, list[int]]:
    """What is wrong with a pair, empty for nothing; and the values of its map."""
    try:
        with Image.open(pair.image) as image, Image.open(pair.map) as drawn:
            if image.size != drawn.size:
                return "have a map of another size than their image", []
            if drawn.mode == "P" and not data_set.palette:
                return "have a map with a palette, whose numbers readers replace by colours", []
            if drawn.mode not in ("L", "P"):
                return f"have a map of mode {drawn.mode} and not of one channel of 8 bits", []
            if quick:
                return "", []
            image.load()
            values = [int(value) for value in np.unique(np.asarray(drawn))]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "cannot be decoded", []
    beyond = [value for value in values if data_set.highest < value < IGNORED]
    if beyond:
        return f"have a map with a value beyond {data_set.highest}", values
    return "", values
