"""Depths for layer decay: of timm's students as well, whose stems, first norms and merging have names of their own."""

import pytest
import torch

from fd_scale.models.config import StudentConfig
from fd_scale.models.depth import depths
from fd_scale.models.zoo import build_student


def outside_of_blocks(name: str, size: int) -> tuple[dict[str, int], int]:
    with torch.device("meta"):
        student = build_student(StudentConfig(name, drop_path=0.0, weights="given"), size)
    found = depths(student)
    assert set(found) == {name for name, _ in student.named_parameters()}
    return {name: depth for name, depth in found.items() if "blocks." not in name}, len(student.blocks())


def test_the_norm_before_clips_blocks_learns_as_slowly_as_its_patches():
    found, blocks = outside_of_blocks("timm:vit_base_patch16_clip_quickgelu_224.openai", 224)
    last = {name for name, depth in found.items() if depth == blocks + 1}
    assert last == {"norm.weight", "norm.bias"}
    assert {found[name] for name in set(found) - last} == {0}


@pytest.mark.parametrize(
    ("name", "size", "first", "merging"),
    [
        ("timm:convnext_tiny", 224, "stem.", {"stages.1": 3, "stages.2": 6, "stages.3": 15}),
        ("timm:swinv2_tiny_window8_256", 256, "patch_embed.", {"layers.1": 2, "layers.2": 4, "layers.3": 10}),
        ("swin_v2_tiny", 256, "patch_embed.", {"layers.0": 2, "layers.1": 4, "layers.2": 10}),
    ],
)
def test_stems_come_first_and_merging_belongs_to_the_block_before_it(name, size, first, merging):
    found, blocks = outside_of_blocks(name, size)
    for parameter, depth in found.items():
        stage = next((stage for stage in merging if parameter.startswith(f"{stage}.downsample.")), None)
        expected = 0 if parameter.startswith(first) else merging[stage] if stage else blocks + 1
        assert depth == expected, parameter
