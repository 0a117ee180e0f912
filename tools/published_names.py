"""Write names and shapes of the tensors in published checkpoints, from tiny models of the published code.

The tests of `fd_scale.models.weights` fill them with numbers and load them. Nothing of that code is copied; it is run
from clones, whose commits stand in the file. Wrappers around the model (training loops save them) are put around by
hand here, as those loops do.

    python tools/published_names.py CLONES tests/models/published_names.json

CLONES holds work trees of microsoft/Swin-Transformer, microsoft/esvit, SwinTransformer/Feature-Distillation,
facebookresearch/dino, facebookresearch/mae and openai/CLIP, each in a folder of its repository's name.
"""

import argparse
import importlib
import json
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm.models.vision_transformer as timm_vit
import torch
from torch import nn

SWIN = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLASSES = 3
NORM = partial(nn.LayerNorm, eps=1e-6)

Names = dict[str, list[int]]


def names(model: nn.Module, prefix: str = "") -> Names:
    return {prefix + name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def linear(prefix: str, *sizes: int) -> Names:
    """List names and shapes of a linear map in a head or decoder that stands beside the model in a checkpoint."""
    return {f"{prefix}.weight": [sizes[-1], *sizes[:-1]], f"{prefix}.bias": [sizes[-1]]}


def module(clone: Path, name: str) -> Any:
    """Import a module of a clone without its package's own `__init__`, which imports the whole training code."""
    for loaded in [
        key for key in sys.modules if key.split(".")[0] in ("models", "utils", "util", "vision_transformer")
    ]:
        del sys.modules[loaded]
    sys.path[:] = [str(clone), *(path for path in sys.path if not path.startswith(str(clone.parent)))]
    package = name.rpartition(".")[0]
    if package:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(clone / package.replace(".", "/"))]
    return importlib.import_module(name)


def swin_v2(clones: Path) -> Names:
    code = module(clones / "Swin-Transformer", "models.swin_transformer_v2")
    return names(code.SwinTransformerV2(num_classes=CLASSES, pretrained_window_sizes=[3, 2], **SWIN))


def swin_v2_simmim(clones: Path) -> Names:
    """List names as published files have them.

    They hold SimMIM's encoder, with the older name of its position MLP, and the decoder.
    """
    code = module(clones / "Swin-Transformer", "models.simmim")
    encoder = code.SwinTransformerV2ForSimMIM(num_classes=0, **SWIN)
    older = {name.replace("cpb_mlp", "rpe_mlp"): shape for name, shape in names(encoder, "encoder.").items()}
    return {**older, **linear("decoder.0", 16, 1, 1, 768)}


def swin_v1_simmim(clones: Path) -> Names:
    code = module(clones / "Swin-Transformer", "models.simmim")
    return {
        **names(code.SwinTransformerForSimMIM(num_classes=0, **SWIN), "encoder."),
        **linear("decoder.0", 16, 1, 1, 768),
    }


def swin_v1_esvit(clones: Path) -> Names:
    code = module(clones / "esvit", "models.swin_transformer")
    model = code.SwinTransformer(num_classes=0, use_dense_prediction=True, **SWIN)
    heads = linear("module.head.mlp.0", 16, 8) | linear("module.head_dense.mlp.0", 16, 8)
    return {**names(model, "module."), **heads}


def fd_swin(clones: Path, **options: Any) -> Names:
    code = module(clones / "Feature-Distillation", "models.swin_transformer_v2")
    encoder = names(code.SwinTransformerV2(num_classes=0, **SWIN, **options), "encoder.")
    return {
        **encoder,
        **linear("decoder.0", 16, 1, 32),
        "feature_model.norm.weight": [32],
        "feature_model.norm.bias": [32],
    }


def fd_vit(clones: Path, **options: Any) -> Names:
    code = module(clones / "Feature-Distillation", "models.vision_transformer")
    common = {"qkv_bias": True, "norm_layer": NORM, "init_values": 0.1, "use_abs_pos_emb": False}
    encoder = code.VisionTransformer(num_classes=0, use_mean_pooling=False, **VIT, **common, **options)
    teacher = {"feature_model.visual.class_embedding": [32], "feature_model.visual.ln_post.weight": [32]}
    return {**names(encoder, "encoder."), **linear("decoder.0", 16, 1, 32), **teacher}


def fd_vit_finetuned(clones: Path) -> Names:
    code = module(clones / "Feature-Distillation", "models.vision_transformer")
    common = {"qkv_bias": True, "norm_layer": NORM, "init_values": 0.1, "use_abs_pos_emb": False}
    return names(code.VisionTransformer(num_classes=CLASSES, use_rel_pos_bias=True, **VIT, **common))


def dino(clones: Path) -> Names:
    code = module(clones / "dino", "vision_transformer")
    wrapper = importlib.import_module("utils").MultiCropWrapper
    backbone = code.VisionTransformer(**{**VIT, "img_size": [32]}, qkv_bias=True, norm_layer=NORM)
    return names(wrapper(backbone, code.DINOHead(16, 8, hidden_dim=8, bottleneck_dim=4)), "module.")


def mae(clones: Path) -> Names:
    original = timm_vit.Block
    timm_vit.Block = lambda *a, qk_scale=None, **k: original(*a, **k)  # an argument that timm has since dropped
    setattr(np, "float", float)  # noqa: B010  and one of NumPy's names
    code = module(clones / "mae", "models_mae")
    timm_vit.Block = original
    small = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    return names(code.MaskedAutoencoderViT(norm_layer=NORM, **small, **VIT))


def clip(clones: Path) -> Names:
    code = module(clones / "CLIP", "clip.model")
    return names(code.CLIP(8, 32, 2, 64, 8, 4, 10, 64, 1, 1))


FORMATS: dict[str, tuple[str, list[str], Callable[[Path], Names]]] = {
    "Microsoft SwinV2": ("Swin-Transformer", ["model"], swin_v2),
    "SimMIM SwinV2": ("Swin-Transformer", ["model"], swin_v2_simmim),
    "SimMIM Swin": ("Swin-Transformer", ["model"], swin_v1_simmim),
    "EsViT": ("esvit", ["student"], swin_v1_esvit),
    "FD SwinV2": ("Feature-Distillation", ["model"], fd_swin),
    "FD SwinV2, shared bias, end norms": (
        "Feature-Distillation",
        ["model"],
        partial(fd_swin, use_shared_rel_pos_bias=True, endnorm_interval=2),
    ),
    "FD ViT": ("Feature-Distillation", ["model"], partial(fd_vit, use_shared_rel_pos_bias=True)),
    "FD ViT, bias of keys": (
        "Feature-Distillation",
        ["model"],
        partial(fd_vit, use_shared_rel_pos_bias=True, with_k_bias=True),
    ),
    "FD ViT, fine-tuned": ("Feature-Distillation", ["model"], fd_vit_finetuned),
    "DINO": ("dino", ["teacher"], dino),
    "MAE": ("mae", ["model"], mae),
    "CLIP": ("CLIP", [], clip),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    content = {}
    for name, (repository, wrapper, listed) in FORMATS.items():
        command = ["git", "-C", str(given.clones / repository), "rev-parse", "HEAD"]
        commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        source = f"{repository}@{commit[:12]}"
        content[name] = {"source": source, "wrapper": wrapper, "names": listed(given.clones.resolve())}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    given.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
