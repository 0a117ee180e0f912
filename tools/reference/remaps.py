"""What the published loaders of fine-tuning make of a checkpoint: biases copied to blocks, tables resized.

Each case is a checkpoint as published and the tensors that the model holds after loading it.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from reference.backbones import SWIN, VIT, Tensors, for_storage, randomise
from reference.recipes import SILENT
from reference.upstream import Clone

FD = "SwinTransformer/Feature-Distillation"
MICROSOFT = "microsoft/Swin-Transformer"

FIRST_SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "num_classes": 2}
SMALL_SWIN = {**SWIN, "embed_dim": 4, "num_heads": [1, 1]}


def vit(clone: Clone, sizes: tuple[int, int]) -> Tensors:
    """A distilled student with one table -> a model with a table in every block and mean pooling, of another size."""
    student = clone.module("models.feature_distillation").VisionTransformerForFD
    tuned = clone.module("models.vision_transformer").VisionTransformer
    norm = {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    changes = {"img_size": sizes[1], "num_classes": 2, "use_mean_pooling": True, "use_rel_pos_bias": True}
    source = student(**{**VIT, "img_size": sizes[0]}, **norm, use_shared_rel_pos_bias=True)
    return loaded(clone, source, tuned(**{**VIT, **changes}, **norm), "vit", prefix="encoder.")


def swin_v2(clone: Clone) -> Tensors:
    """A distilled student with one position MLP for each stage -> a model with one in every block."""
    student = clone.module("models.feature_distillation").SwinV2ForFD
    tuned = clone.module("models.swin_transformer_v2").SwinTransformerV2
    source = student(**SMALL_SWIN, num_classes=0, use_shared_rel_pos_bias=True)
    return loaded(clone, source, tuned(**SMALL_SWIN, num_classes=2), "swin_v2", prefix="encoder.")


def swin_tables(clone: Clone) -> Tensors:
    """Tables of the first Swin, from a window of 4 to one of 6, in either repository."""
    swin = clone.module("models.swin_transformer").SwinTransformer
    before, after = swin(**FIRST_SWIN, window_size=4), swin(**{**FIRST_SWIN, "img_size": 24}, window_size=6)
    tensors = loaded(clone, before, after, "swin", prefix="")
    return {name: tensor for name, tensor in tensors.items() if name.endswith("relative_position_bias_table")}


def loaded(clone: Clone, source: nn.Module, target: nn.Module, kind: str, prefix: str) -> Tensors:
    """`state/NAME` of the file and `loaded/NAME` of every parameter that came from it."""
    randomise(source)
    untouched = {name: parameter.detach().clone() for name, parameter in target.named_parameters()}
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "checkpoint.pth")
        torch.save({"model": state}, path)
        model = SimpleNamespace(TYPE=kind, PRETRAINED=path)
        config = SimpleNamespace(PRETRAINED=path, DEV=SimpleNamespace(FT_SKIP_REMAP=False), MODEL=model)
        clone.module("utils").load_pretrained(config, target, SILENT)
    changed = {
        f"loaded/{name}": parameter.detach()
        for name, parameter in target.named_parameters()
        if not torch.equal(parameter, untouched[name])
    }
    return {**{f"state/{name}": for_storage(tensor) for name, tensor in state.items()}, **changed}


MAKERS: dict[str, tuple[str, Callable[[Clone], Tensors]]] = {
    "fd_remap_vit": (FD, partial(vit, sizes=(16, 16))),
    "fd_remap_vit_larger": (FD, partial(vit, sizes=(28, 48))),
    "fd_remap_vit_smaller": (FD, partial(vit, sizes=(28, 20))),
    "fd_remap_swin_v2": (FD, swin_v2),
    "fd_remap_swin_tables": (FD, swin_tables),
    "microsoft_remap_swin_tables": (MICROSOFT, swin_tables),
}
