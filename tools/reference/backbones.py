"""Published backbones: weights under their real names, tokens, and gradients, in fp64; how far off fp32 is."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tools.reference.upstream import Clone, precision

SEED = 0
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Case of a published backbone.

    prefix: before every name in the published checkpoints.
    norm_eps: of the norms, where it is an argument.
    """

    repository: str
    module: str
    model: str
    arguments: dict
    image_size: int
    prefix: str = ""
    norm_eps: float | None = None


MICROSOFT = ("microsoft/Swin-Transformer", "models.swin_transformer_v2", "SwinTransformerV2")
FD_SWIN = ("SwinTransformer/Feature-Distillation", "models.feature_distillation", "SwinV2ForFD")
FD_VIT = ("SwinTransformer/Feature-Distillation", "models.feature_distillation", "VisionTransformerForFD")

# Maps of 16 and 8 in windows of 4; the second block has shifted windows.
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "drop_path_rate": 0.0,
}
# Maps of 12 and 6: shifted windows, then one window without shift; both larger than those of the weights.
RESIZED = {**SWIN, "img_size": 24, "window_size": 6, "pretrained_window_sizes": [4, 3]}
# The published interval; a stage of six blocks has one such norm.
END_NORM = {**SWIN, "depths": [6, 1], "endnorm_interval": 6}
VIT = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "qkv_bias": True,
    "init_values": 0.1,
    "num_classes": 0,
    "use_abs_pos_emb": False,
    "use_mean_pooling": False,
}

CASES = {
    "microsoft_swin_v2": Case(*MICROSOFT, {**SWIN, "num_classes": 3}, 32),
    "microsoft_swin_v2_resized": Case(*MICROSOFT, {**RESIZED, "num_classes": 3}, 24),
    "fd_swin_v2": Case(*FD_SWIN, {**SWIN, "num_classes": 0}, 32, "encoder."),
    "fd_swin_v2_shared": Case(*FD_SWIN, {**SWIN, "num_classes": 0, "use_shared_rel_pos_bias": True}, 32, "encoder."),
    "fd_swin_v2_end_norm": Case(*FD_SWIN, {**END_NORM, "num_classes": 0}, 32, "encoder."),
    "fd_swin_v2_shared_end_norm": Case(
        *FD_SWIN, {**END_NORM, "num_classes": 0, "use_shared_rel_pos_bias": True}, 32, "encoder."
    ),
    "fd_vit_shared": Case(*FD_VIT, {**VIT, "use_shared_rel_pos_bias": True}, 16, "encoder.", 1e-6),
    "fd_vit_per_block": Case(*FD_VIT, {**VIT, "use_rel_pos_bias": True}, 16, "encoder.", 1e-6),
    "fd_vit_absolute": Case(*FD_VIT, {**VIT, "use_abs_pos_emb": True}, 16, "encoder.", 1e-6),
}


def run_case(case: Case, clone: Clone) -> tuple[Tensors, dict]:
    """Run one case. Returns (tensors, facts)."""
    single = tokens_and_gradients(case, clone, torch.float32)
    exact = tokens_and_gradients(case, clone, torch.float64)
    facts = {
        "module": case.module,
        "class": case.model,
        "arguments": case.arguments,
        "norm_eps": case.norm_eps,
        "fp32_error": errors(single, exact, ("tokens", "loss", "gradient_of_images")),
    }
    return exact, facts


def tokens_and_gradients(case: Case, clone: Clone, dtype: torch.dtype) -> Tensors:
    """Compute tokens and gradients.

    Returns `state/NAME`, `images`, `projection`, `tokens`, `loss`, `gradient/NAME` and `gradient_of_images`.

    The tokens are what leaves the final norm, the loss their product with `projection`. Weights, images and projection
    are numbers of fp32, so that both types start from the same.
    """
    with precision(dtype):
        options = {"norm_layer": partial(nn.LayerNorm, eps=case.norm_eps)} if case.norm_eps else {}
        model = getattr(clone.module(case.module), case.model)(**case.arguments, **options)
        randomise(model)
        model.to(dtype)
        seen: list[Tensor] = []
        model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
        generator = torch.Generator().manual_seed(SEED + 1)
        images = random((2, 3, case.image_size, case.image_size), generator).to(dtype).requires_grad_()
        model(images)
        (tokens,) = seen
        projection = random(tokens.shape, generator)
        loss = (tokens * projection.to(dtype)).sum()
        loss.backward()
    state = {f"state/{case.prefix}{name}": for_storage(tensor) for name, tensor in model.state_dict().items()}
    gradients = {
        f"gradient/{case.prefix}{name}": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert images.grad is not None
    results = {"tokens": tokens.detach(), "loss": loss.detach(), "gradient_of_images": images.grad}
    inputs = {"images": images.detach().to(torch.float32), "projection": projection}
    return {**state, **inputs, **results, **gradients}


def randomise(model: nn.Module) -> None:
    """Give every parameter values of visible size: as initialised, the norms of residual branches hide everything.

    One logit scale of each model lies above its ceiling of log 100.
    """
    generator = torch.Generator().manual_seed(SEED)
    scale = None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = random(parameter.shape, generator)
            if name.endswith("logit_scale"):
                scale = parameter
                values = 1 + 0.3 * values
            else:
                values = 0.2 * values
            parameter.copy_(values)
        if scale is not None:
            scale.view(-1)[0] = 5.0


def random(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def for_storage(tensor: Tensor) -> Tensor:
    """Convert a tensor for storage. Weights are numbers of fp32 in either type."""
    return tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()


def errors(single: Tensors, exact: Tensors, quantities: tuple[str, ...]) -> dict[str, float]:
    """Compute the norm of the fp32 run's error over the norm of the value.

    The gradients of all parameters count as one vector.
    """
    names = sorted(name for name in exact if name.startswith("gradient/"))

    def flat(run: Tensors) -> Tensor:
        return torch.cat([run[name].flatten().double() for name in names])

    def error(found: Tensor, wanted: Tensor) -> float:
        return float((found.double() - wanted).norm() / wanted.norm())

    found = {name: error(single[name], exact[name]) for name in quantities}
    return {**found, "gradients": error(flat(single), flat(exact))}
