"""Data sets that are whole, and the ways in which they are not; in small, with the layout of the releases."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from fd_scale.errors import BadInput
from fd_scale_downstream import check_data as module
from fd_scale_downstream.__main__ import main

SIZE = (12, 8)
COUNTS = {"ade20k": (70, 3), "voc": (2, 2, 3)}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """The same data sets with fewer images."""
    small = {
        kind: replace(whole, splits=tuple(replace(s, count=n) for s, n in zip(whole.splits, COUNTS[kind], strict=True)))
        for kind, whole in module.DATA_SETS.items()
    }
    monkeypatch.setattr(module, "DATA_SETS", small)
    monkeypatch.setattr("fd_scale_downstream.__main__.DATA_SETS", small)


def pair(image: Path, drawn: Path, values: list[int], mode: str = "L") -> None:
    for path in (image, drawn):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*reversed(SIZE), 3), 99, np.uint8)).save(image)
    content = np.resize(np.array(values, np.uint8), tuple(reversed(SIZE)))
    Image.fromarray(content).convert(mode).save(drawn)


@pytest.fixture
def ade20k(tmp_path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for split, count in zip(("training", "validation"), COUNTS["ade20k"], strict=True):
        for number in range(count):
            name = f"ADE_{split}_{number:08d}"
            pair(root / f"images/{split}/{name}.jpg", root / f"annotations/{split}/{name}.png", [0, 7, number, 150])
    return root


@pytest.fixture
def voc(tmp_path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, count in zip(("train", "val", "trainaug"), COUNTS["voc"], strict=True):
        names = [f"{split}_{number}" for number in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(names))
        maps, mode = ("SegmentationClassAug", "L") if split == "trainaug" else ("SegmentationClass", "P")
        for name in names:
            pair(root / f"JPEGImages/{name}.jpg", root / maps / f"{name}.png", [0, 20, 255], mode)
    return root


def test_a_whole_data_set_is_told_by_its_counts_and_values(ade20k, capsys):
    assert main(["check", "ade20k", str(ade20k.parent)]) == 0  # the folder above the release, or the release
    output = capsys.readouterr().out
    assert "training        70 of 70 images with maps, values 0 to 150" in output
    assert "validation       3 of 3 images with maps, values 0 to 150" in output
    assert main(["check", "ade20k", str(ade20k), "--quick"]) == 0


def test_voc_may_have_palettes(voc, capsys):
    assert main(["check", "voc", str(voc)]) == 0
    assert "trainaug" in capsys.readouterr().out


def save(path: Path, image: Image.Image) -> None:
    image.save(path)


DRAWN = "annotations/validation/ADE_validation_00000001.png"
PHOTOGRAPH = "images/validation/ADE_validation_00000001.jpg"
FLAT = Image.new("L", SIZE, 3)
DAMAGES = {
    "lack their map": lambda root: (root / DRAWN).unlink(),
    "lack their image": lambda root: (root / PHOTOGRAPH).unlink(),
    "with a palette": lambda root: save(root / DRAWN, FLAT.convert("P")),
    "of mode RGB": lambda root: save(root / DRAWN, FLAT.convert("RGB")),
    "of another size": lambda root: save(root / DRAWN, FLAT.resize((8, 8))),
    "a value beyond 150": lambda root: save(root / DRAWN, Image.new("L", SIZE, 151)),
    "cannot be decoded": lambda root: (root / PHOTOGRAPH).write_bytes((root / PHOTOGRAPH).read_bytes()[:200]),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_what_is_wrong_with_one_image_is_named(ade20k, problem, capsys):
    DAMAGES[problem](ade20k)
    with pytest.raises(BadInput, match=f"validation has . of 3 images with maps, problems: 1, first: ADE_.*{problem}"):
        main(["check", "ade20k", str(ade20k)])
    assert "ADE_validation_00000001" in capsys.readouterr().out


def test_half_a_data_set_is_refused_even_where_all_that_is_there_is_whole(ade20k):
    for path in (ade20k / DRAWN, ade20k / PHOTOGRAPH):
        path.unlink()
    with pytest.raises(BadInput, match="validation has 2 of 3 images with maps, problems: 0; unpack the release"):
        main(["check", "ade20k", str(ade20k), "--quick"])


def test_ignored_pixels_are_fine(ade20k):
    save(ade20k / DRAWN, Image.new("L", SIZE, 255))
    assert main(["check", "ade20k", str(ade20k)]) == 0


def test_the_full_release_is_told_apart(ade20k):
    shutil.copy(ade20k / DRAWN, ade20k / "images/validation/ADE_val_00000001_seg.png")
    with pytest.raises(BadInput, match="847 and more classes; ADE20K, 150 classes, is another download"):
        main(["check", "ade20k", str(ade20k)])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        main(["check", "ade20k", str(tmp_path / "nowhere")])
