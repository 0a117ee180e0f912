"""Files of other projects as their training scripts write them: random weights of the registered sizes."""

import argparse
import json
import re
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student

Tensors = dict[str, Tensor]


def write_files(folder: Path) -> None:
    (folder / "weights").mkdir(parents=True)
    written = {
        "weights/esvit_swin_base_w14.pth": esvit(),
        "simmim_pretrain__swin_base__img192_window6__800ep.pth": {"model": simmim(swin(window_size=6, img_size=192))},
        "simmim_pretrain__vit_base__img224__800ep.pth": {"model": simmim(beit())},
        "beit_base_patch16_224_pt22k.pth": {"model": {**beit(), "lm_head.weight": torch.zeros(8, 48)}},
    }
    for name, content in written.items():
        torch.save({**content, "epoch": 300, "args": argparse.Namespace(lr=1)}, folder / name)
    miniature_teacher(folder / "runs/miniature/teacher.safetensors")


def swin(**arguments: object) -> Tensors:
    """A first Swin under the names of its own code, which merges patches at the end of a stage, timm at the next."""
    torch.manual_seed(1)
    model = timm.create_model("swin_base_patch4_window7_224", num_classes=0, **arguments)
    tensors = {
        re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name): tensor
        for name, tensor in model.state_dict().items()
    }
    tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.long)
    return tensors


def beit() -> Tensors:
    """BEiT's ViT with one position bias for all blocks, which SimMIM took over; ours has its names."""
    model = build_student(StudentConfig("vit_base", position_bias="shared"), 224)
    initialise_all(model, 1)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def simmim(encoder: Tensors) -> Tensors:
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    return {**tensors, "encoder.mask_token": torch.zeros(1, 1, 4), "decoder.0.weight": torch.zeros(4, 4, 1, 1)}


def esvit() -> dict[str, Tensors]:
    tensors = swin(window_size=14, img_size=224, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    tensors["head.mlp.0.weight"] = tensors["head_dense.last_layer.weight_v"] = torch.zeros(4, 4)
    return {who: {f"module.{name}": value for name, value in tensors.items()} for who in ("student", "teacher")}


def miniature_teacher(path: Path) -> None:
    """As experiments/miniature leaves its teacher."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    stated = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": arguments}
    path.parent.mkdir(parents=True)
    save_file(model.state_dict(), path, metadata={"fd_scale_teacher": json.dumps(stated)})
