"""Weights of a timm model by its name, where one of our students computes the same as that model.

Names and shapes do not tell everything: activation, the eps of norms, the order of norms and branches are asked of
timm's model itself. Left out: architectures that no student has (rotary positions, SwiGLU, registers, CLIP).
"""

import difflib
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs, is_model
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.vision_transformer import Block as ViTBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.vit import NORM_EPS
from fd_scale.models.weights.reading import WeightsFile, refuse_unusable

SWIN_NORM_EPS = 1e-5
SAME = {VisionTransformer: (ViTBlock, NORM_EPS), Beit: (BeitBlock, NORM_EPS)}
SAME[SwinTransformerV2] = (SwinTransformerV2Block, SWIN_NORM_EPS)
"""Class of a timm model -> of its blocks, and the eps of its norms, with which a student computes the same."""


def timm_weights(name: str) -> WeightsFile:
    """The pretrained weights that timm publishes under that name, fetched through its hub or from the hub's cache.

    Raises BadInput for an unknown name, one without weights, one that no student can compute, weights that hold NaN or
    infinity, and without network.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture) or (tag and name not in get_arch_pretrained_cfgs(architecture)):
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), 3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise BadInput(f"timm {timm.__version__} has no model {name!r}{hint}")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises a dozen kinds
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BadInput(
            f"cannot fetch timm:{name} ({words}); without network, bring its file from huggingface.co/timm/{name} and "
            "give its path"
        ) from error
    refuse_unusable(dict(model.named_parameters()), f"timm:{name}")
    return weights_of(model, f"timm:{name}")


def weights_of(model: Any, source: str) -> WeightsFile:
    """The state dict of a timm model, after asking whether a student can compute what it does."""
    name = type(model).__name__
    if type(model) not in SAME:
        raise BadInput(
            f"timm's {name} is no SwinV2, BEiT or plain ViT: no student computes the same; take it as teacher"
        )
    block, eps = SAME[type(model)]
    other = {type(m).__name__ for m in model.modules() if type(m).__name__.endswith("Block") and type(m) is not block}
    if other:
        raise BadInput(
            f"timm's {name} has blocks of the kind {', '.join(other)}, which no student has; take it as teacher"
        )
    for part, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.eps != eps:
            raise BadInput(
                f"timm's {name} has eps {module.eps:g} in {part} and the student {eps:g}; take it as teacher"
            )
        if part.endswith("mlp.act") and (
            type(module).__name__ != "GELU" or getattr(module, "approximate", "none") != "none"
        ):
            raise BadInput(f"timm's {name} uses {type(module).__name__} and the student GELU; take it as teacher")
    image_size = int(model.patch_embed.img_size[0])
    if not isinstance(model, SwinTransformerV2):
        return WeightsFile(source, dict(model.state_dict()), image_size=image_size)
    attentions = [stage.blocks[0].attn for stage in model.layers]
    trained = tuple(int(a.pretrained_window_size[0] or a.window_size[0]) for a in attentions)
    window = int(attentions[0].window_size[0])
    return WeightsFile(source, dict(model.state_dict()), trained_windows=trained, window=window, image_size=image_size)
