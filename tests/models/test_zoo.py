"""From a config to a student, and one clear line for what makes no sense."""

import logging
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fd_scale.errors import BadInput
from fd_scale.models import init
from fd_scale.models.config import StudentConfig
from fd_scale.models.families import names
from fd_scale.models.zoo import build_student


@pytest.mark.parametrize("name", names())
def test_every_name_builds_and_its_parameters_all_have_a_rule(name):
    with torch.device("meta"):
        model = build_student(StudentConfig(name), 224)
    for parameter_name, _ in model.named_parameters():
        small = torch.full((2, 2), float("nan"))
        with torch.no_grad():
            model.init_parameter(parameter_name, small, torch.Generator())
        assert not small.isnan().any(), parameter_name


@pytest.mark.parametrize("name", ["swin_v2_nano", "vit_tiny"])
def test_tokens_fill_the_grid(name):
    model = build_student(StudentConfig(name, position_bias="shared"), 96).eval()
    init.initialise_all(model, 0)
    with torch.no_grad():
        tokens = model(torch.randn(1, 3, 96, 96))
    assert model.grid(96, 96) == (6, 6)
    assert tokens.shape == (1, model.num_prefix_tokens + 36, model.width)


def test_config_overrides_the_size():
    config = StudentConfig(
        "swin_v2_nano",
        patch_size=4,
        window=3,
        position_bias="shared",
        extra_norm_every=2,
        residual_norm_init=0.0,
        attention="sdpa",
        window_chunk=5,
    )
    model = build_student(config, 96)
    init.initialise_all(model, 0)
    assert model.strides == (4, 8, 16, 32)
    assert {block.window for block in model.blocks()} == {3}
    assert {(block.attn.attention, block.attn.chunk) for block in model.blocks()} == {("sdpa", 5)}
    assert (model.blocks()[0].norm1.weight == 0).all()
    assert any("enorm" in name for name, _ in model.named_parameters())


def test_drop_path_grows_linearly_to_the_configured_rate():
    for name in ("swin_v2_nano", "vit_tiny"):
        rates = [b.drop_path.rate for b in build_student(StudentConfig(name, drop_path=0.3), 96).blocks()]
        steps = [b - a for a, b in pairwise(rates)]
        assert rates[0] == 0
        assert rates[-1] == pytest.approx(0.3)
        assert steps == pytest.approx([steps[0]] * len(steps))


def test_windows_that_shrink_are_logged(caplog):
    with caplog.at_level(logging.INFO, "fd_scale"):
        build_student(StudentConfig("swin_v2_nano"), 32)
    assert "maps [16, 8, 4, 2], windows [6, 6, 4, 2]" in caplog.text


def test_config_reads_from_yaml_types():
    adapter = TypeAdapter(StudentConfig)
    config = adapter.validate_python({"name": "swin_v2_base", "pretrained_window": [12, 12, 12, 6], "window": 14})
    assert config.pretrained_window == (12, 12, 12, 6)
    with pytest.raises(ValidationError):
        adapter.validate_python({"name": "vit_base", "position_bias": "rotary"})


@pytest.mark.parametrize(
    ("fields", "image_size", "line"),
    [
        ({"name": "swin_v2_bas"}, 224, r"unknown student 'swin_v2_bas'; did you mean swin_v2_base"),
        ({"name": "resnet"}, 224, r"unknown student 'resnet'; did you mean"),
        ({"name": "vit_base"}, 225, r"225 is not divisible by the patch size 16 .* try 224 or 240"),
        ({"name": "swin_v2_tiny"}, 3, r"3 is not divisible by the patch size 4 .* try 4 or 8"),
        ({"name": "vit_base", "window": 7}, 224, r"window is a key of SwinV2"),
        ({"name": "swin_v2_tiny", "position_bias": "absolute"}, 224, r"'absolute' is for a ViT"),
        ({"name": "swin_v2_tiny", "window": 0}, 224, r"window 0 is below 1"),
        ({"name": "swin_v2_tiny", "pretrained_window": (8, 8, 0, 8)}, 224, r"value below 1"),
        ({"name": "swin_v2_tiny", "extra_norm_every": -1}, 224, r"extra_norm_every -1 is negative"),
        (
            {"name": "swin_v2_tiny", "attention": "flash"},
            224,
            r"'flash' is not one of auto, reference, sdpa, flex, tiled",
        ),
        ({"name": "vit_base", "attention": "sdpa"}, 224, r"attention is a key of SwinV2"),
        ({"name": "swin_v2_tiny", "window_chunk": 0}, 224, r"window_chunk 0 is below 1; leave it out"),
        ({"name": "swin_v2_tiny", "window_chunk": 4, "attention": "flex"}, 224, r"of no use with attention 'flex'"),
        ({"name": "swin_v2_tiny", "patch_size": 0}, 224, r"patch_size 0 is below 1"),
        ({"name": "swin_v2_tiny", "drop_path": 1.0}, 224, r"drop_path 1.0 is not in \[0, 1\)"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(fields, image_size, line):
    with pytest.raises(BadInput, match=line) as error:
        build_student(StudentConfig(**fields), image_size)
    assert "\n" not in str(error.value)
