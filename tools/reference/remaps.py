"""Remapping of checkpoints by the published loaders of fine-tuning: biases copied to blocks, tables resized.

Each case is a checkpoint as published and the tensors that the model holds after loading it.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from tools.reference.backbones import SWIN, VIT, Tensors, for_storage, randomise
from tools.reference.recipes import SILENT
from tools.reference.upstream import Clone

REPOSITORY = "SwinTransformer/Feature-Distillation"

SMALL_SWIN = {**SWIN, "embed_dim": 4, "num_heads": [1, 1]}


def vit(clone: Clone, sizes: tuple[int, int]) -> Tensors:
    """Load a distilled student with one table into a model of another size.

    That model has a table in every block, and mean pooling.
    """
    student = clone.module("models.feature_distillation").VisionTransformerForFD
    tuned = clone.module("models.vision_transformer").VisionTransformer
    norm = {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    changes = {"img_size": sizes[1], "num_classes": 2, "use_mean_pooling": True, "use_rel_pos_bias": True}
    source = student(**{**VIT, "img_size": sizes[0]}, **norm, use_shared_rel_pos_bias=True)
    return loaded(clone, source, tuned(**{**VIT, **changes}, **norm), "vit")


def swin_v2(clone: Clone) -> Tensors:
    """Load a distilled student with one position MLP for each stage into a model with one in every block."""
    student = clone.module("models.feature_distillation").SwinV2ForFD
    tuned = clone.module("models.swin_transformer_v2").SwinTransformerV2
    source = student(**SMALL_SWIN, num_classes=0, use_shared_rel_pos_bias=True)
    return loaded(clone, source, tuned(**SMALL_SWIN, num_classes=2), "swin_v2")


def loaded(clone: Clone, source: nn.Module, target: nn.Module, kind: str) -> Tensors:
    """Collect `state/NAME` of the file and `loaded/NAME` of every parameter that came from it."""
    randomise(source)
    untouched = {name: parameter.detach().clone() for name, parameter in target.named_parameters()}
    state = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()}
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


MAKERS: dict[str, Callable[[Clone], Tensors]] = {
    "fd_remap_vit": partial(vit, sizes=(16, 16)),
    "fd_remap_vit_larger": partial(vit, sizes=(28, 48)),
    "fd_remap_vit_smaller": partial(vit, sizes=(28, 20)),
    "fd_remap_swin_v2": swin_v2,
}
