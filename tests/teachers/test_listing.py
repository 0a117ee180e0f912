"""Every teacher of the listed families builds, with the grid, prefix tokens and width that its name stands for."""

import re

import pytest

from fd_scale.errors import BadInput
from fd_scale.teachers import listing

WIDTHS = {
    "xsmall": 256,
    "tiny": 192,
    "small": 384,
    "medium": 512,
    "betwixt": 640,
    "base": 768,
    "large": 1024,
    "so400m": 1152,
    "huge": 1280,
    "giant": 1408,
    "giantopt": 1536,
    "gigantic": 1664,
    "enormous": 1792,
    "7b": 4096,
}
HIERARCHICAL_WIDTHS = {"tiny": 768, "small": 768, "base": 1024, "large": 1536}


def width_of(name: str) -> int:
    size = re.search(f"_({'|'.join(sorted(WIDTHS, key=len, reverse=True))})(_|\\.)", name)
    assert size, name
    if re.match(r"swin|convnext|esvit", name):
        return HIERARCHICAL_WIDTHS[size[1]]
    if size[1] == "giant" and re.search("dinov2|radio", name):
        return 1536
    return 896 if "_plus_clip_" in name else WIDTHS[size[1]]


def prefix_of(family: str, name: str) -> int:
    if re.match(r"swin|convnext", name) or family == "SigLIP":
        return 0
    if family == "RADIO":
        return 10 if "v4" in name else 8
    if family == "DeiT":
        return 2 if "distilled" in name else 1
    return 5 if family == "DINOv3" or "reg4" in name else 1


@pytest.fixture(scope="module")
def rows() -> list[listing.Row]:
    return listing.rows()


def test_every_listed_teacher_has_the_layout_that_its_name_stands_for(rows):
    theirs = [row for row in rows if row.spec.startswith("timm:")]
    assert len(theirs) == len(listing.names()) > 290
    assert {row.family for row in theirs} == set(listing.FAMILIES)
    for row in theirs:
        name = row.spec.removeprefix("timm:")
        patch = re.search(r"patch(\d+)", name) if not re.match(r"swin|convnext", name) else None
        stride = int(patch[1]) if patch else 32
        assert row.stride == stride, row
        assert row.grid == (row.image_size // stride, row.image_size // stride), row
        assert row.prefix_tokens == prefix_of(row.family, name), row
        assert row.width == width_of(name), row
        assert row.licence, row


def test_pixel_statistics_of_each_family_are_its_own(rows):
    found = {family: {row.pixels for row in rows if row.family == family} for family in listing.FAMILIES}
    assert found["DINO"] == found["DINOv2"] == found["DeiT"] == found["MAE"] == found["Swin"] == {"imagenet"}
    assert found["SwinV2"] == {"imagenet"}
    assert found["RADIO"] == {"clip"}
    others = [row for row in rows if row.family == "EVA" and row.pixels != "clip"]
    assert all("m30m" in row.spec and row.pixels == "imagenet" for row in others)
    assert found["SigLIP"] == {"half"}
    assert "clip" in found["CLIP"]
    assert {row.pixels for row in rows if row.spec.endswith(".openai")} == {"clip"}
    satellite = {row.pixels for row in rows if "sat493m" in row.spec}
    assert satellite == {"(0.43, 0.411, 0.296)/(0.213, 0.156, 0.143)"}


def test_models_that_timm_has_no_name_for_are_listed_too(rows):
    giant = next(row for row in rows if row.spec == "fd_scale:swin_v2_giant@PATH")
    assert (round(giant.parameters / 1e9, 3), giant.grid, giant.width) == (2.998, (6, 6), 4096)
    esvit = next(row for row in rows if row.spec == "fd_scale:esvit_swin_base_window14@PATH")
    assert (esvit.grid, esvit.width, esvit.licence, esvit.pixels) == ((7, 7), 1024, "MIT", "imagenet")


def test_names_with_the_wrong_activation_are_not_offered():
    assert "vit_base_patch16_clip_224.openai" not in listing.names()
    assert "vit_base_patch16_clip_quickgelu_224.openai" in listing.names()


def test_a_pattern_that_no_name_has_is_refused_with_the_families():
    with pytest.raises(BadInput, match="families: CLIP, DINO"):
        listing.rows("resnet*")


def test_the_table_has_a_line_for_each():
    lines = listing.table(listing.rows("vit_small_patch16_224.dino")).splitlines()
    assert len(lines) == 2
    assert "timm:vit_small_patch16_224.dino" in lines[1]
    assert "14x14" in lines[1]
