"""Weights of a timm model by its name, where one of our students computes the same as that model.

Names and shapes do not tell everything: activation, the eps of norms, the order of norms and branches are asked of
timm's model itself. Left out: architectures that no student has (rotary positions, SwiGLU, registers, CLIP).
"""

import difflib
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs, is_model
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.families import published_families
from fd_scale.models.weights.reading import WeightsFile, refuse_unusable


def timm_weights(name: str) -> WeightsFile:
    """Fetch the pretrained weights that timm publishes under that name, through its hub or from the hub's cache.

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
    """Take the state dict of a timm model, after asking whether a student can compute what it does."""
    name = type(model).__name__
    twins = [(twin, weights) for _, weights in published_families() for twin in weights.twins]
    twin, weights = next(((twin, weights) for twin, weights in twins if type(model) is twin.model), (None, None))
    if twin is None or weights is None:
        *most, last = (twin.called for twin, _ in twins)
        raise BadInput(
            f"timm's {name} is no {', '.join(most)} or {last}: no student computes the same; take it as teacher"
        )
    block, eps = twin.block, twin.norm_eps
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
    return WeightsFile(source, dict(model.state_dict()), image_size=image_size, **weights.facts_of_twin(model))
