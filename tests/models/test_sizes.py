"""Every size that timm has too: names and shapes of the whole, then tokens and gradients with real widths, heads and
windows but fewer blocks, on timm's weights by our loader.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import timm
import torch
from support.parity import EXACT, TIMES, error, largest_error, row
from support.parts import sweep
from timm.models.beit import Beit
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from fd_scale.models import swin_v2, vit
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.fitting import fit
from fd_scale.models.zoo import build_student

SWINS = [name for name in timm.list_models("swinv2_*") if "_cr_" not in name]
OTHER_SWINS = timm.list_models("swinv2_cr_*")
BEITS = ["beit_base_patch16_224", "beit_base_patch16_384", "beit_large_patch16_224", "beit_large_patch16_512"]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", sweep([*SWINS, *BEITS], ["swinv2_tiny_window8_256", "beit_base_patch16_224"]))
def test_parameters_are_timms_by_name_and_shape(name):
    with torch.device("meta"):
        if name in SWINS:
            model = timm.create_model(name, num_classes=0)
            student = build_student(StudentConfig(f"swin_v2_{name.split('_')[1]}"), 192)
        else:
            model = timm.create_model(name, num_classes=0, global_pool="token")
            config = StudentConfig(f"vit_{name.split('_')[1]}", position_bias="per_block")
            student = build_student(config, int(name.split("_")[-1]))
        fitted = fit(student, dict(model.named_parameters()))
    assert not fitted.report.missing
    assert not fitted.report.ignored
    assert {name: tuple(tensor.shape) for name, tensor in fitted.tensors.items()} == shapes(student)
    count = sum(parameter.numel() for parameter in student.parameters())
    assert count == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", sweep(OTHER_SWINS, ["swinv2_cr_giant_224"]))
def test_timms_swinv2_cr_are_other_models(name):
    """Its position bias has another MLP, its norms stand elsewhere, and its giant has two blocks fewer: 2.6 billion."""
    size = name.split("_")[2]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
        student = build_student(StudentConfig(f"swin_v2_{size}", extra_norm_every=0), 192)
    assert not set(shapes(model)) >= set(shapes(student))
    assert sum(p.numel() for p in model.parameters()) != sum(p.numel() for p in student.parameters())


@dataclass(frozen=True)
class Swin:
    size: str
    depths: tuple[int, ...]
    window: int
    pretrained: tuple[int, ...]
    image_size: int


# Windows of timm's models of these sizes, shifted in the first stages; of the base, one that is the whole map.
LIVE_SWINS = [
    Swin("swin_v2_tiny", (2, 2, 2, 2), 8, (0, 0, 0, 0), 128),
    Swin("swin_v2_small", (2, 1, 2, 1), 16, (0, 0, 0, 0), 128),
    Swin("swin_v2_base", (2, 1, 1, 1), 24, (12, 12, 12, 6), 96),
    Swin("swin_v2_large", (2, 1, 1, 1), 16, (12, 12, 12, 6), 128),
]


@pytest.mark.parametrize("case", sweep(LIVE_SWINS, LIVE_SWINS[:1]), ids=lambda case: case.size)
def test_swins_of_all_sizes_compute_what_timms_do(case, randomise, run):
    size = swin_v2.SIZES[case.size]
    reference = SwinTransformerV2(
        img_size=case.image_size,
        embed_dim=size.embed_dim,
        depths=case.depths,
        num_heads=size.heads,
        window_size=case.window,
        pretrained_window_sizes=case.pretrained,
        num_classes=0,
        drop_path_rate=0.0,
    )
    student = swin_v2.SwinV2(
        size.embed_dim,
        case.depths,
        size.heads,
        window=case.window,
        pretrained_windows=case.pretrained if any(case.pretrained) else None,
        drop_path=0.0,
    )
    compare(case.size, student, reference, case.image_size, randomise, run)


@pytest.mark.parametrize(
    ("name", "position_bias"),
    sweep(
        [*((name, "shared") for name in vit.SIZES), ("vit_small", "per_block")],
        [("vit_tiny", "shared"), ("vit_small", "per_block")],
    ),
)
def test_vits_of_all_sizes_compute_what_timms_beit_does(name, position_bias, randomise, run):
    size = vit.SIZES[name]
    depth = 2 if size.width <= 768 else 1
    reference = Beit(
        img_size=4 * size.patch_size,
        patch_size=size.patch_size,
        num_classes=0,
        embed_dim=size.width,
        depth=depth,
        num_heads=size.heads,
        init_values=0.1,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_fc_norm=False,
        use_abs_pos_emb=False,
        use_rel_pos_bias=position_bias == "per_block",
        use_shared_rel_pos_bias=position_bias == "shared",
    )
    student = vit.ViT(
        size.width,
        depth,
        size.heads,
        image_size=4 * size.patch_size,
        patch_size=size.patch_size,
        drop_path=0.0,
        position_bias=position_bias,
    )
    compare(f"{name}, {position_bias}", student, reference, 4 * size.patch_size, randomise, run)


def compare(case: str, student: Backbone, reference: nn.Module, image_size: int, randomise, run) -> None:
    """Ours and timm's on timm's weights, in fp64 and fp32."""
    randomise(reference)
    images = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    student.load_state_dict(fit(student, dict(reference.named_parameters())).tensors, strict=True)
    results = {}
    for dtype in (torch.float32, torch.float64):
        student, reference = student.to(dtype), reference.to(dtype)
        tokens, gradients = run(student, student, images.to(dtype))
        expected, timms = run(reference.forward_features, reference, images.to(dtype))
        pixels = timms.pop("images")
        timms = {**fit(student, timms).tensors, "images": pixels}
        ours, theirs = {"tokens": {"": tokens}, "gradients": gradients}, {"tokens": {"": expected}, "gradients": timms}
        results[dtype] = ours, theirs
    ours, exact = results[torch.float64]
    in_fp64 = {name: largest_error(ours[name], exact[name]) for name in exact}
    in_fp32, timms_fp32 = [{name: error(side[name], exact[name]) for name in exact} for side in results[torch.float32]]
    row(f"{case} against timm", in_fp64, in_fp32, timms_fp32)
    for name in exact:
        assert in_fp64[name] < EXACT, name
        assert in_fp32[name] < TIMES * timms_fp32[name], name
