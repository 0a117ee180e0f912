"""Every family's tokens are those of its own blocks followed once by its own final norm."""

import pytest
import torch
from timm.layers import DropPath, resample_abs_pos_embed
from tiny_models import FAMILIES, TINY_VIT, model_of

from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from fd_scale.teachers.teacher import Teacher


def tokens_by_hand(family: str, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The last block's output and the final norm, from timm's parts."""
    if family == "convnext":
        maps = model.stages(model.stem(images))  # (B, C, gh, gw)
        maps = torch.nn.functional.layer_norm(
            maps.permute(0, 2, 3, 1), maps.shape[1:2], model.head.norm.weight, model.head.norm.bias, model.head.norm.eps
        )
        return maps.flatten(1, 2)
    if family.startswith("swin"):
        return model.norm(model.layers(model.patch_embed(images))).flatten(1, 2)
    tokens = model.patch_embed(images)
    if family in ("eva02", "dinov3"):
        tokens, rotation = model._pos_embed(tokens)
        tokens = model.norm_pre(tokens)
        for block in model.blocks:
            tokens = block(tokens, rope=rotation)
    elif family.startswith("beit"):
        tokens = torch.cat([model.cls_token.expand(len(images), 1, -1), tokens], 1)
        bias = model.rel_pos_bias() if model.rel_pos_bias is not None else None
        for block in model.blocks:
            tokens = block(tokens, shared_rel_pos_bias=bias)
    else:
        tokens = model.blocks(model.norm_pre(model._pos_embed(tokens)))
    if family == "radio":  # its backbone ends without a norm
        assert not [name for name, _ in model.named_modules() if name in ("norm.weight", "fc_norm.weight")]
        return tokens
    last = model.norm if isinstance(model.norm, torch.nn.LayerNorm) else model.fc_norm
    assert isinstance(last, torch.nn.LayerNorm)
    return last(tokens)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def built(family, save):
    name, kwargs, _, _ = FAMILIES[family]
    model = model_of(name, kwargs)
    path = save(model, facts={"timm_model": name, "timm_kwargs": kwargs})
    size = kwargs.get("img_size", 64)
    return model, build_teacher(TeacherConfig(f"file:{path}"), size), torch.randn(2, 3, size, size)


@torch.no_grad()
def test_tokens_are_the_last_blocks_after_its_final_norm(family, built):
    model, teacher, images = built
    torch.testing.assert_close(teacher(images), tokens_by_hand(family, model, images))


@torch.no_grad()
def test_layout_is_prefix_tokens_then_the_map(family, built):
    _, _, prefix, stride = FAMILIES[family]
    _, teacher, images = built
    gh, gw = teacher.grid(*images.shape[-2:])
    assert (teacher.num_prefix_tokens, teacher.stride) == (prefix, stride)
    assert (gh, gw) == (images.shape[-2] // stride, images.shape[-1] // stride)
    assert teacher(images).shape == (2, prefix + gh * gw, teacher.width)


def test_a_teacher_never_trains(built):
    _, teacher, _ = built
    teacher.train()
    torch.nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(module.drop_prob == 0 for module in teacher.modules() if isinstance(module, DropPath))


def test_drop_path_stays_zero_where_the_file_asks_for_it(save):
    kwargs = {**TINY_VIT, "drop_path_rate": 0.5, "proj_drop_rate": 0.5}
    path = save(
        model_of("vit_tiny_patch16_224", kwargs), facts={"timm_model": "vit_tiny_patch16_224", "timm_kwargs": kwargs}
    )
    teacher = build_teacher(TeacherConfig(f"file:{path}"), 64)
    teacher.model.training = True
    for module in teacher.modules():
        module.training = True  # behind the teacher's back
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(teacher(images), teacher(images))


@pytest.mark.parametrize(
    ("family", "mean", "std"),
    [
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("dino", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("deit_distilled", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("dinov3", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("beit", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("beit_v2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("siglip", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("eva02", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("radio", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_pixel_statistics_are_the_teachers_own(family, mean, std, save):
    name, kwargs, _, _ = FAMILIES[family]
    path = save(model_of(name, kwargs), facts={"timm_model": name, "timm_kwargs": kwargs})
    teacher = build_teacher(TeacherConfig(f"file:{path}"), kwargs["img_size"])
    assert teacher.mean == pytest.approx(mean)
    assert teacher.std == pytest.approx(std)


@torch.no_grad()
def test_clip_keeps_its_activation(save):
    """The same weights with GELU give other tokens: the silent trap that names without quickgelu are refused for."""
    name, kwargs, _, _ = FAMILIES["clip"]
    model = model_of(name, kwargs)
    path = save(model, facts={"timm_model": name, "timm_kwargs": kwargs})
    plain = model_of("vit_base_patch16_clip_224.openai", kwargs)
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    tokens = build_teacher(TeacherConfig(f"file:{path}"), 64)(images)
    assert (tokens - plain.forward_features(images)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["dino", "dinov2_registers", "deit_distilled", "averaged", "eva02"])
def test_another_size_resamples_the_position_embedding(family, save):
    name, kwargs, prefix, stride = FAMILIES[family]
    model = model_of(name, kwargs)
    path = save(model, facts={"timm_model": name, "timm_kwargs": kwargs})
    teacher = build_teacher(TeacherConfig(f"file:{path}"), 7 * stride)
    own_prefix = 0 if getattr(model, "no_embed_class", False) else prefix
    expected = resample_abs_pos_embed(model.pos_embed, [7, 7], num_prefix_tokens=own_prefix)
    torch.testing.assert_close(teacher.model.pos_embed, expected.detach())
    assert teacher(torch.randn(1, 3, 7 * stride, 7 * stride)).shape == (1, prefix + 49, 32)


def test_fingerprint_is_of_the_weights(save):
    name, kwargs, _, _ = FAMILIES["dino"]
    facts = {"timm_model": name, "timm_kwargs": kwargs}
    model = model_of(name, kwargs)

    def fingerprint(file: str) -> str:
        teacher: Teacher = build_teacher(TeacherConfig(f"file:{save(model, file, facts)}"), 64)
        return teacher.fingerprint()

    first, again = fingerprint("a.safetensors"), fingerprint("b.safetensors")
    model.norm.bias.data[3] += 1e-3
    assert first == again != fingerprint("c.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("image_size", [32, 128])
def test_another_size_keeps_the_scale_of_swin_v2s_position_bias(image_size, save):
    """Windows shrink and grow with the map; the bias of neighbours must stay what it was trained to be."""
    name, kwargs, _, _ = FAMILIES["swin_v2"]
    model = model_of(name, kwargs)
    path = save(model, facts={"timm_model": name, "timm_kwargs": kwargs})
    teacher = build_teacher(TeacherConfig(f"file:{path}"), image_size)
    changed = False
    for native, other in zip(model.layers, teacher.model.layers, strict=True):
        before, after = native.blocks[0].attn, other.blocks[0].attn
        changed |= before.window_size != after.window_size
        if min(*before.window_size, *after.window_size) > 1:
            spacing = [a.relative_coords_table[0, a.window_size[0], a.window_size[1]] for a in (before, after)]
            torch.testing.assert_close(*spacing)  # of the offset (1, 1)
    assert changed


def test_attention_pooling_is_left_out(save):
    """SigLIP's: no token passes through it, so it would only cost memory."""
    name, kwargs, _, _ = FAMILIES["siglip"]
    model = model_of(name, kwargs)
    teacher = build_teacher(TeacherConfig(f"file:{save(model, facts={'timm_model': name, 'timm_kwargs': kwargs})}"), 64)
    assert any(key.startswith("attn_pool") for key in model.state_dict())
    assert not any("attn_pool" in key for key in teacher.state_dict())
