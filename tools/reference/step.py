"""One step of feature distillation by the published class, with tiny teachers of the published classes.

Two things differ from a published run, because its class states them as constants: loaders that would download give a
tiny teacher instead, and what follows from the teacher's width (the whitening and the head) is made again for it.
"""

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tools.reference.backbones import SEED, VIT, Tensors, errors, for_storage, random, randomise
from tools.reference.upstream import Clone, precision

REPOSITORY = "SwinTransformer/Feature-Distillation"
TEACHER_WIDTH = 24
IMAGE_SIZE = 16
TEACHERS = {"fd_step_clip": "CLIP_400M", "fd_step_dino": "DINO"}


def run_step(case: str, clone: Clone) -> tuple[Tensors, dict]:
    """Run one step. Returns (tensors, facts).

    `state/NAME` holds student, head and teacher together, as published checkpoints have them.
    """
    single = one_step(TEACHERS[case], clone, torch.float32)
    exact = one_step(TEACHERS[case], clone, torch.float64)
    quantities = ("teacher_tokens", "target", "prediction", "loss")
    facts = {
        "module": "models.feature_distillation",
        "class": "FD",
        "teacher": TEACHERS[case],
        "student": VIT,
        "norm_eps": 1e-6,
        "fp32_error": errors(single, exact, quantities),
    }
    return exact, facts


def one_step(teacher: str, clone: Clone, dtype: torch.dtype) -> Tensors:
    """Run the step on tiny models.

    Returns `images` as the student gets them, `teacher_images`, `teacher_tokens` behind the teacher's own final norm,
    `target`, `prediction`, `loss` and `gradient/NAME`.
    """
    with precision(dtype):
        module = clone.module("models.feature_distillation")
        module.load_clip = lambda name, image_size: (tiny_clip(), None)  # type: ignore[attr-defined]
        module.load_dino = lambda name: tiny_dino()  # type: ignore[attr-defined]
        options = {"norm_layer": partial(nn.LayerNorm, eps=1e-6), "use_shared_rel_pos_bias": True}
        student = module.VisionTransformerForFD(**VIT, **options)
        dev = SimpleNamespace(PRED_FEAT=teacher, PRED_FEAT_AFTERNORM=True)
        model = module.FD(SimpleNamespace(DEV=dev, DATA=SimpleNamespace(IMG_SIZE=IMAGE_SIZE)), student)
        model.ln_tgt = nn.LayerNorm(TEACHER_WIDTH, elementwise_affine=False)
        model.decoder = nn.Sequential(nn.Conv1d(student.num_features, TEACHER_WIDTH, kernel_size=1))
        randomise(model)
        model.to(dtype)

        seen: dict[str, Tensor] = {}
        watch(model.decoder, seen, output="prediction")
        watch(model.ln_tgt, seen, inputs="teacher_tokens", output="target")
        first = model.feature_model.visual.conv1 if "CLIP" in teacher else model.feature_model.patch_embed
        watch(first, seen, inputs="teacher_images")
        images = random((2, 3, IMAGE_SIZE, IMAGE_SIZE), torch.Generator().manual_seed(SEED + 1))
        loss = model(images.to(dtype))["loss"]
        loss.backward()
    seen["prediction"] = seen["prediction"].transpose(1, 2)  # the head is a convolution over channels first
    state = {f"state/{name}": for_storage(tensor) for name, tensor in model.state_dict().items()}
    gradients = {f"gradient/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**state, "images": images, "loss": loss.detach(), **seen, **gradients}


def watch(module: nn.Module, seen: dict[str, Tensor], inputs: str = "", output: str = "") -> None:
    def hook(module: nn.Module, arguments: Any, result: Tensor) -> None:
        if inputs:
            seen[inputs] = arguments[0].detach()
        if output:
            seen[output] = result.detach()

    module.register_forward_hook(hook)


def tiny_clip() -> nn.Module:
    """Build the published CLIP; its vision tower alone again, because the class wants 64 channels a head."""
    classes = sys.modules["models.clip.model"]
    model = classes.CLIP(8, IMAGE_SIZE, 1, 64, 4, 4, 8, 8, 1, 1)
    model.visual = classes.VisionTransformer(IMAGE_SIZE, 4, TEACHER_WIDTH, layers=2, heads=2, output_dim=8)
    return model


def tiny_dino() -> nn.Module:
    vision_transformer = sys.modules["models.dino"].WarpperVisionTransformer
    return vision_transformer(
        img_size=IMAGE_SIZE, patch_size=4, embed_dim=TEACHER_WIDTH, depth=2, num_heads=2, num_classes=0
    )
