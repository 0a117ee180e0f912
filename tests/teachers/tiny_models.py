"""Seeded timm models of every family, made tiny, saved as the checkpoints that teachers are built from."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

TINY_VIT = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_SWIN = {"img_size": 64, "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
TINY_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}

# family: timm name, tiny arguments, prefix tokens, stride
FAMILIES = {
    "dino": ("vit_small_patch16_224.dino", TINY_VIT, 1, 16),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2.lvd142m", {**TINY_VIT, "img_size": 56}, 5, 14),
    "clip": ("vit_base_patch16_clip_quickgelu_224.openai", TINY_VIT, 1, 16),
    "deit_distilled": ("deit_tiny_distilled_patch16_224.fb_in1k", TINY_VIT, 2, 16),
    "mae": ("vit_base_patch16_224.mae", TINY_VIT, 1, 16),
    "averaged": ("vit_tiny_patch16_224", {**TINY_VIT, "global_pool": "avg", "class_token": False}, 0, 16),
    "beit": ("beit_base_patch16_224.in22k_ft_in22k_in1k", TINY_VIT, 1, 16),
    "beit_v2": ("beitv2_base_patch16_224.in1k_ft_in22k", TINY_VIT, 1, 16),
    "siglip": ("vit_base_patch16_siglip_224.v2_webli", TINY_VIT, 0, 16),
    "dinov3": ("vit_small_patch16_dinov3.lvd1689m", TINY_VIT, 5, 16),
    "eva02": ("eva02_tiny_patch14_224.mim_in22k", {**TINY_VIT, "img_size": 56}, 1, 14),
    "radio": ("vit_base_patch16_radio_v3.c_radio", TINY_VIT, 8, 16),
    "swin": ("swin_tiny_patch4_window7_224.ms_in1k", TINY_SWIN, 0, 32),
    "swin_v2": ("swinv2_tiny_window8_256.ms_in1k", TINY_SWIN, 0, 32),
    "convnext": ("convnext_atto.d2_in1k", TINY_CONVNEXT, 0, 32),
}


def model_of(name: str, kwargs: dict) -> torch.nn.Module:
    """Random everywhere, the norms too: a norm that is forgotten or applied twice then shows."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_teacher(model: torch.nn.Module, path: Path, facts: dict | None = None) -> Path:
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, path, metadata={"fd_scale_teacher": json.dumps(facts)} if facts else None)
    return path
