"""Photographs: a split by photograph, crops that are the same bytes each time, one line for a folder that is no use."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fd_scale.demo.photos import MIN_HELD_OUT, SUFFIXES, Photograph, crop_boxes, photographs, write_crops
from fd_scale.errors import BadInput


def folder_of_images(folder: Path, count: int, size: tuple[int, int] = (96, 80)) -> Path:
    draws = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("sub" if i % 2 else ".") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_packages_carry_every_listed_photograph():
    found = photographs(None)
    assert all(photograph.path.is_file() for photograph in found)
    assert sum(photograph.held_out for photograph in found) >= MIN_HELD_OUT
    assert sum(not photograph.held_out for photograph in found) >= 2 * MIN_HELD_OUT


def test_held_out_photographs_of_the_packages_are_coloured():
    for photograph in photographs(None):
        if photograph.held_out:
            red, green, blue = np.moveaxis(np.asarray(Image.open(photograph.path).convert("RGB"), np.int32), 2, 0)
            assert (abs(red - green) + abs(green - blue)).mean() > 10, photograph.name


@pytest.mark.parametrize("count", [8, 9, 19, 20, 41])
def test_every_fifth_image_of_a_folder_is_held_out_and_at_least_four(tmp_path, count):
    found = photographs(folder_of_images(tmp_path, count))
    held_out = [photograph for photograph in found if photograph.held_out]
    assert len(found) == count
    assert MIN_HELD_OUT <= len(held_out) <= max(count // 2, MIN_HELD_OUT)
    assert len(held_out) == count // 5 or count < 20
    assert photographs(tmp_path) == found


def test_equal_stems_and_nested_folders_get_names_of_their_own(tmp_path):
    folder_of_images(tmp_path, 8)
    Image.new("RGB", (80, 80)).save(tmp_path / "000.jpg")
    Image.new("RGB", (80, 80)).save(tmp_path / "sub_001.jpg")
    names = [photograph.name for photograph in photographs(tmp_path)]
    assert len(set(names)) == 10


def test_crops_are_the_same_bytes_and_another_seed_gives_others(tmp_path):
    chosen = photographs(None)
    write_crops(chosen, tmp_path / "a", count=51, size=64, seed=3)
    write_crops(chosen, tmp_path / "b", count=51, size=64, seed=3)
    write_crops(chosen, tmp_path / "c", count=51, size=64, seed=4)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_crops_lie_by_split_and_photograph_equally_many_of_each(tmp_path):
    chosen = photographs(None)
    write_crops(chosen, tmp_path / "crops", count=100, size=48)
    for photograph in chosen:
        split = "heldout" if photograph.held_out else "train"
        crops = sorted((tmp_path / "crops" / split / photograph.name).iterdir())
        assert [crop.name for crop in crops] == [f"{i:04d}.jpg" for i in range(round(100 / len(chosen)))]
        assert all(Image.open(crop).size == (48, 48) for crop in crops)
    assert {path.parent.parent.name for path in (tmp_path / "crops").rglob("*.jpg")} == {"train", "heldout"}


@pytest.mark.parametrize("image_size", [(600, 400), (400, 600), (100, 100)])
def test_boxes_stay_inside_and_cover_the_photograph_evenly(image_size):
    width, height = image_size
    covered = np.zeros((height, width))
    for left, top, right, bottom in crop_boxes(image_size, 60, size=100, seed=0):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left == pytest.approx(bottom - top)
        assert right - left >= 100 - 1e-9
        covered[int(top) : round(bottom), int(left) : round(right)] += 1
    quarters = [half.mean() for rows in np.array_split(covered, 2, 0) for half in np.array_split(rows, 2, 1)]
    assert min(quarters) > 0.8 * max(quarters)
    assert (covered > 0).mean() > 0.95


def test_more_photographs_than_crops_keep_both_splits(tmp_path):
    chosen = photographs(folder_of_images(tmp_path / "images", 40))
    write_crops(chosen, tmp_path / "crops", count=8, size=32)
    assert len(list((tmp_path / "crops" / "heldout").rglob("*.jpg"))) >= 1
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) <= 10


def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path):
    image = Image.fromarray(np.repeat(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 100, 0).repeat(200, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: blue on top, once turned
    image.save(tmp_path / "turned.jpg", exif=exif)
    write_crops([Photograph("turned", tmp_path / "turned.jpg", False)], tmp_path / "crops", count=1, size=200)
    crop = np.asarray(Image.open(tmp_path / "crops/train/turned/0000.jpg"), np.int32)
    assert crop[10, :, 2].mean() > 200 > 50 > crop[10, :, 0].mean()


def test_too_few_images_are_refused_with_the_number_needed(tmp_path):
    with pytest.raises(BadInput, match=r"7 images .* at least 8"):
        photographs(folder_of_images(tmp_path, 7))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(BadInput, match=r"0 images"):
        photographs(tmp_path)
    with pytest.raises(BadInput, match=r"not a folder"):
        photographs(tmp_path / "absent")


@pytest.mark.parametrize("broken", ["text", "torn"])
def test_an_undecodable_image_is_named_and_nothing_is_left_behind(tmp_path, broken):
    images = folder_of_images(tmp_path / "images", 8)
    whole = (images / "000.png").read_bytes()
    (images / "bad.png").write_bytes(b"no image at all" if broken == "text" else whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"bad\.png"):
        write_crops(photographs(images), tmp_path / "crops", count=20, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_icon_is_refused(tmp_path):
    Image.new("RGB", (32, 200)).save(tmp_path / "icon.png")
    with pytest.raises(BadInput, match=r"icon\.png is 32 x 200"):
        write_crops([Photograph("icon", tmp_path / "icon.png", False)], tmp_path / "crops")


def test_crops_do_not_replace_what_stands(tmp_path):
    (tmp_path / "crops").mkdir()
    with pytest.raises(BadInput, match=r"exists already"):
        write_crops(photographs(None), tmp_path / "crops")


def test_suffixes_are_matched_in_any_case(tmp_path):
    for i, suffix in enumerate([*SUFFIXES, ".JPG", ".Png"]):
        (tmp_path / f"{i}{suffix}").write_bytes(b"")
    assert len(photographs(tmp_path)) == len(SUFFIXES) + 2
