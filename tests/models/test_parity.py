"""Students against published code: its weights by our loader, then its tokens, loss and gradients."""

import pytest
import torch
from safetensors.torch import save_file
from support.parity import EXACT, TIMES, Published, Tensors, error, largest_error, published, row

from fd_scale.models.backbone import Backbone
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.weights.fitting import fit
from fd_scale.models.weights.loading import load_weights

CASES = [
    "microsoft_swin_v2",
    "microsoft_swin_v2_resized",
    "fd_swin_v2",
    "fd_swin_v2_shared",
    "fd_swin_v2_end_norm",
    "fd_swin_v2_shared_end_norm",
    "fd_vit_shared",
    "fd_vit_per_block",
    "fd_vit_absolute",
]


@pytest.mark.parametrize("case", CASES)
def test_published_weights_give_the_published_tokens_loss_and_gradients(case, tmp_path):
    reference = published(case)
    path = tmp_path / "published.safetensors"
    save_file(reference.part("state"), path)
    exact, single = (results(reference, path, dtype) for dtype in (torch.float64, torch.float32))
    wanted = {
        "tokens": {"": reference.tensors["tokens"]},
        "loss": {"": reference.tensors["loss"]},
        "gradients": fit(student(reference.facts), reference.part("gradient")).tensors,
        "gradient_of_images": {"": reference.tensors["gradient_of_images"]},
    }
    in_fp64 = {name: largest_error(exact[name], wanted[name]) for name in wanted}
    in_fp32 = {name: error(single[name], wanted[name]) for name in wanted}
    theirs = reference.facts["fp32_error"]
    # One number can be right by chance, in either code.
    theirs["loss"] = max(theirs["loss"], theirs["tokens"])
    row(case, in_fp64, in_fp32, theirs)
    for name in wanted:
        assert in_fp64[name] < EXACT, name
        assert in_fp32[name] < TIMES * theirs[name], name


def student(facts: dict) -> Backbone:
    """Ours, by the arguments of the published class."""
    given = facts["arguments"]
    shared = given.get("use_shared_rel_pos_bias", False)
    if "window_size" in given:
        return SwinV2(
            given["embed_dim"],
            tuple(given["depths"]),
            tuple(given["num_heads"]),
            window=given["window_size"],
            patch_size=given["patch_size"],
            drop_path=0.0,
            position_bias="shared" if shared else "per_block",
            extra_norm_every=given.get("endnorm_interval", 0),
        )
    unshared = "per_block" if given.get("use_rel_pos_bias") else "absolute"
    return ViT(
        given["embed_dim"],
        given["depth"],
        given["num_heads"],
        image_size=given["img_size"],
        patch_size=given["patch_size"],
        drop_path=0.0,
        position_bias="shared" if shared else unshared,
    )


def results(reference: Published, path, dtype: torch.dtype) -> dict[str, Tensors]:
    model = student(reference.facts).to(dtype)
    outcome = load_weights(model, path, whole=True)
    assert not outcome.missing
    assert not outcome.unknown
    images = reference.tensors["images"].to(dtype).requires_grad_()
    tokens = model(images)
    loss = (tokens * reference.tensors["projection"].to(dtype)).sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "tokens": {"": tokens.detach()},
        "loss": {"": loss.detach()},
        "gradients": gradients,
        "gradient_of_images": {"": images.grad},
    }
