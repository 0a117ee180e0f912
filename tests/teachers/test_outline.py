"""A teacher without weights, to plan with: what it says of itself is what the real one says."""

import pytest
from tiny_models import FAMILIES, model_of

from fd_scale.errors import BadInput
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher, outline_teacher


@pytest.mark.parametrize("family", ["clip", "dinov2_registers", "averaged", "swin", "convnext"])
@pytest.mark.parametrize("logits", [False, True])
def test_an_outline_has_the_shapes_and_statistics_of_the_teacher(family, logits, save):
    name, kwargs, _, stride = FAMILIES[family]
    path = save(model_of(name, kwargs), facts={"timm_model": name, "timm_kwargs": kwargs, "mean": [0.1, 0.2, 0.3]})
    config, size = TeacherConfig(f"file:{path}"), 2 * stride
    if logits and family == "dinov2_registers":  # published without a classifier
        with pytest.raises(BadInput, match="neither classifier nor projection"):
            outline_teacher(config, size, logits)
        return
    outline, teacher = outline_teacher(config, size, logits), build_teacher(config, size, logits)
    for fact in ("width", "num_prefix_tokens", "mean", "std", "description"):
        assert getattr(outline, fact) == getattr(teacher, fact), fact
    assert outline.grid(size, size) == teacher.grid(size, size)
    shapes = [{n: p.shape for n, p in model.named_parameters()} for model in (outline, teacher)]
    assert shapes[0] == shapes[1]
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}


def test_an_outline_needs_neither_network_nor_weights_but_the_right_names():
    outline = outline_teacher(TeacherConfig("fd_scale:esvit_swin_base_window14@absent.pth"), 224)
    assert (outline.width, outline.grid(224, 224)) == (1024, (7, 7))
    for spec, line in (
        ("timm:vit_base_patch16_clip_224.openai", "QuickGELU"),
        ("timm:vit_smal_patch16_224.dino", "vit_small_patch16_224.dino"),
        ("file:absent.safetensors", "no file"),
    ):
        with pytest.raises(BadInput, match=line):
            outline_teacher(TeacherConfig(spec), 224)
