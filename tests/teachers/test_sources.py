"""Every spec reaches its weights, strictly; everything else is one line with the fix."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_models import TINY_VIT, model_of

from fd_scale.errors import BadInput
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher
from tools.measure_memory.live import LivePeak

CONVNET = "test_convnext.r160_in1k"  # tiny, and without a fixed input size


def refused(spec: str, image_size: int = 64) -> str:
    with pytest.raises(BadInput) as caught:
        build_teacher(TeacherConfig(spec), image_size)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    return str(caught.value)


@torch.no_grad()
def test_a_local_checkpoint_gives_the_same_tokens_in_either_format_with_or_without_classifier(save, tmp_path):
    model = model_of(CONVNET, {})
    headless = model_of(CONVNET, {"num_classes": 0})
    headless.load_state_dict(model.state_dict(), strict=False)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    paths = [save(model), save(headless, "headless.safetensors"), tmp_path / "weights.pth"]
    images = torch.randn(1, 3, 64, 64)
    tokens = [build_teacher(TeacherConfig(f"timm:{CONVNET}@{path}"), 64)(images) for path in paths]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])


def test_loading_holds_the_weights_twice_and_no_more(tmp_path):
    state = timm.create_model("test_vit.r160_in1k", pretrained=False).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    with LivePeak() as live:
        build_teacher(TeacherConfig(f"timm:test_vit.r160_in1k@{tmp_path / 'weights.safetensors'}"), 64)
    assert live.peak < 2.5 * sum(value.nbytes for value in state.values())  # the file's and the model's


def test_licence_and_description_name_the_source(save):
    teacher = build_teacher(TeacherConfig(f"timm:{CONVNET}@{save(model_of(CONVNET, {}))}"), 64)
    assert teacher.licence == "apache-2.0"
    assert teacher.description.startswith(CONVNET)


@torch.no_grad()
def test_the_checkpoint_of_a_training_script_is_read_without_its_heads_and_arguments(tmp_path):
    """As DINO's are: student and teacher, prefixes of what was around the backbone, heads, the run's arguments."""
    model = model_of("test_vit.r160_in1k", {"num_classes": 0})
    names = {f"module.backbone.{key}": value for key, value in model.state_dict().items()}
    teacher = names | {"module.head.mlp.0.weight": torch.zeros(2, 2), "module.head.last_layer.weight": torch.zeros(2)}
    student = {key: torch.zeros_like(value) for key, value in teacher.items()}
    content = {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "checkpoint.pth")
    images = torch.randn(1, 3, 160, 160)
    tokens = build_teacher(TeacherConfig(f"timm:test_vit.r160_in1k@{tmp_path / 'checkpoint.pth'}"), 160)(images)
    assert torch.equal(tokens, model.forward_features(images))


def test_a_file_that_states_no_licence_is_recorded_as_such(save):
    facts = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": TINY_VIT}
    path = save(model_of("vit_tiny_patch16_224", TINY_VIT), facts=facts)
    assert build_teacher(TeacherConfig(f"file:{path}"), 64).licence == "not stated"


def test_a_model_without_a_map_of_tokens_is_refused(save):
    path = save(model_of("coat_tiny", {}), facts={"timm_model": "coat_tiny", "timm_kwargs": {}})
    assert "gives no tokens for 224 x 224 pixels" in refused(f"file:{path}", 224)


def test_paths_are_relative_to_the_current_folder(save, tmp_path, monkeypatch):
    save(model_of(CONVNET, {}), "here.safetensors")
    monkeypatch.chdir(tmp_path)
    assert build_teacher(TeacherConfig(f"timm:{CONVNET}@here.safetensors"), 64).width == 64


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "timm:",
        "file:",
        "vit_small_patch16_224.dino",
        "clip:ViT-B/16",
        "demo:x",
        "fd_scale:swin_v2_giant",
        "timm:x@",
    ],
)
def test_an_unknown_kind_of_spec_names_the_known_ones(spec):
    assert "timm:NAME, timm:NAME@PATH, fd_scale:NAME@PATH, file:PATH or demo" in refused(spec)


def test_an_unknown_name_gets_the_nearest():
    assert "vit_small_patch16_224.dino" in refused("timm:vit_small_patch16_224.dinno")
    assert "swin_base_patch4_window7_224" in refused("timm:swin_base_patch4_windw7_224")


def test_a_model_without_published_weights_is_refused():
    assert "publishes no weights for coatnet_0_224" in refused("timm:coatnet_0_224")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("vit_base_patch16_clip_224.openai", "timm:vit_base_patch16_clip_quickgelu_224.openai"),
        ("vit_large_patch14_clip_336.openai", "timm:vit_large_patch14_clip_quickgelu_336.openai"),
        ("vit_base_patch32_clip_224.metaclip_400m", "timm:vit_base_patch32_clip_quickgelu_224.metaclip_400m"),
    ],
)
def test_clip_names_with_the_wrong_activation_are_refused(wrong, right):
    assert right in refused(f"timm:{wrong}")
    assert right in refused(f"timm:{wrong}@some.safetensors")


def test_without_a_tag_a_local_file_of_unclear_statistics_is_refused():
    line = refused("timm:vit_small_patch16_224@some.safetensors")
    assert "pixel statistics" in line
    assert "vit_small_patch16_224.dino" in line


def test_a_size_that_the_stride_does_not_divide_is_refused_before_anything_is_fetched():
    assert "use 96 or 112" in refused("timm:vit_small_patch16_224.dino", 100)
    assert "use 64 or 96" in refused("timm:swin_tiny_patch4_window7_224.ms_in1k", 80)


def test_without_network_the_line_names_the_way_around(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert f"timm:{CONVNET}@PATH" in refused(f"timm:{CONVNET}")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).write_text("no tensors here")
    assert name in refused(f"timm:{CONVNET}@{tmp_path / name}")


def test_a_missing_file_is_refused(tmp_path):
    for spec in (f"timm:{CONVNET}@{tmp_path}/absent.pth", f"file:{tmp_path}/absent.safetensors"):
        assert f"no file {tmp_path}/absent" in refused(spec)


class Payload:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path):
    torch.save({"state_dict": {}, "extra": Payload(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    assert "evil.pth" in refused(f"timm:{CONVNET}@{tmp_path / 'evil.pth'}")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_refused_with_the_first_names(save):
    path = save(model_of("vit_tiny_patch16_224", TINY_VIT))
    assert "blocks.0." in refused(f"timm:{CONVNET}@{path}")
    assert "blocks.2." in refused(f"timm:test_vit.r160_in1k@{path}")


def test_one_missing_tensor_is_refused(save):
    model = model_of("vit_tiny_patch16_224", TINY_VIT)
    del model.blocks[1].norm2.bias
    path = save(model, facts={"timm_model": "vit_tiny_patch16_224", "timm_kwargs": TINY_VIT})
    assert "blocks.1.norm2.bias" in refused(f"file:{path}")


def test_a_safetensors_that_does_not_name_its_architecture_is_refused(save, tmp_path):
    assert "timm:NAME@PATH" in refused(f"file:{save(model_of('vit_tiny_patch16_224', TINY_VIT))}")
    (tmp_path / "notes.txt").write_text("no tensors here")
    assert "timm:NAME@PATH" in refused(f"file:{tmp_path / 'notes.txt'}")


def test_arguments_that_timm_does_not_know_are_refused(save):
    model = model_of("vit_tiny_patch16_224", TINY_VIT)
    path = save(model, facts={"timm_model": "vit_tiny_patch16_224", "timm_kwargs": {**TINY_VIT, "embed_dims": 3}})
    assert "embed_dims" in refused(f"file:{path}")
