"""Index maps as a data set."""

import json

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from downstream.mini_data import write_mini_data

from fd_scale.errors import BadInput
from fd_scale_downstream.semantic import IndexMaps


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_mini_data(tmp_path_factory.mktemp("data"), images=2)


def dataset(folders, classes, split="train"):
    images, maps = folders
    return IndexMaps(str(classes), data_prefix={"img_path": str(images / "images"), "seg_map_path": str(maps / split)})


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("val", 2)])
def test_the_maps_decide_which_images_belong_to_a_split(folders, split, first):
    found = dataset(folders, folders[1] / "classes.json", split)
    assert [item["img_path"][-16:] for item in found.load_data_list()] == [f"{first + n:012d}.jpg" for n in range(2)]
    assert len(found.metainfo["classes"]) == 81
    assert found.metainfo["classes"][:3] == ["background", "person", "bicycle"]


@pytest.mark.parametrize("content", ["[1]", "{", json.dumps({"0": "background", "2": "person"})])
def test_names_that_leave_an_index_open_are_refused(folders, tmp_path, content):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(BadInput, match=r"classes\.json"):
        dataset(folders, tmp_path / "classes.json")


def test_a_split_without_maps_is_refused(folders):
    (folders[1] / "empty").mkdir()
    with pytest.raises(BadInput, match="has a map in"):
        dataset(folders, folders[1] / "classes.json", "empty")
