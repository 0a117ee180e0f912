"""A sharded teacher in bf16 gives what a whole one gives, and nearly what it gives in fp32: one of every family."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from parallel.running import check
from safetensors.torch import save_file
from support.parts import sweep

from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.teachers.listing import FAMILIES

VIT = {"embed_dim": 192, "depth": 2, "num_heads": 3}
"""Wide enough that some parameters are partitioned: more than 100,000 numbers."""
SWIN = {"embed_dim": 32, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 4]}
TIMM: dict[str, tuple[str, dict, int]] = {
    "CLIP": ("vit_base_patch16_clip_quickgelu_224.openai", VIT, 64),
    "DINO": ("vit_small_patch16_224.dino", VIT, 64),
    "DINOv2": ("vit_small_patch14_reg4_dinov2.lvd142m", VIT, 56),
    "DINOv3": ("vit_small_patch16_dinov3.lvd1689m", VIT, 64),
    "DINOv3 ConvNeXt": ("convnext_tiny.dinov3_lvd1689m", {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 256]}, 64),
    "DeiT": ("deit_tiny_distilled_patch16_224.fb_in1k", VIT, 64),
    "MAE": ("vit_base_patch16_224.mae", VIT, 64),
    "BEiT": ("beit_base_patch16_224.in22k_ft_in22k_in1k", VIT, 64),
    "SigLIP": ("vit_base_patch16_siglip_224.v2_webli", VIT, 64),
    "EVA": ("eva02_tiny_patch14_224.mim_in22k", VIT, 56),
    "RADIO": ("vit_base_patch16_radio_v3.c_radio", VIT, 64),
    "Swin": ("swin_tiny_patch4_window7_224.ms_in1k", SWIN, 64),
    "SwinV2": ("swinv2_tiny_window8_256.ms_in1k", SWIN, 64),
    "SwinV2-CR": ("swinv2_cr_tiny_ns_224.sw_in1k", SWIN, 64),
    "batch norm": ("test_efficientnet.r160_in1k", {}, 64),
}
OURS = {"own SwinV2": "swin_v2_nano", "own ViT": "vit_nano"}
SPREAD = ("SwinV2", "EVA", "batch norm")
GROUPS = {"some": SPREAD, "the others": tuple(name for name in [*TIMM, *OURS] if name not in SPREAD)}


def test_every_family_is_among_them():
    names = [name for name, _, _ in TIMM.values()]
    assert not [family for family, start in FAMILIES.items() if not any(re.match(start, name) for name in names)]


def written(family: str, folder: Path) -> str:
    """A small one of random weights in a file; its spec and its image size."""
    torch.manual_seed(0)
    path = folder / f"{family.replace(' ', '_')}.safetensors"
    if family in OURS:
        model = build_student(StudentConfig(OURS[family], drop_path=0.0), 96)
        initialise_all(model, 0)
        stated = {"own_model": OURS[family], "mean": [0.5] * 3, "std": [0.5] * 3}
        if "swin" in OURS[family]:
            stated["windows"] = [6, 6, 6, 6]
        save_file(dict(model.named_parameters()), path, metadata={"fd_scale_teacher": json.dumps(stated)})
        return f"file:{path}:96"
    name, arguments, size = TIMM[family]
    sized = {} if family in ("DINOv3 ConvNeXt", "batch norm") else {"img_size": size}
    arguments = {**arguments, **sized, "num_classes": 0}
    model = timm.create_model(name, **arguments)
    stated = {"timm_model": name, "timm_kwargs": arguments}
    save_file(model.state_dict(), path, metadata={"fd_scale_teacher": json.dumps(stated)})
    return f"file:{path}:{size}"


@pytest.mark.parametrize("group", sweep(GROUPS, ["some"]))
def test_sharded_teachers_in_bf16_equal_whole_ones_and_nearly_those_in_fp32(group, tmp_path):
    assert check("parallel.precision_program", *(written(family, tmp_path) for family in GROUPS[group])) == 0
