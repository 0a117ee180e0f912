"""A staged file is the teacher, says where it came from, and is refused when it is not what was staged."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from tiny_models import model_of

from fd_scale.api import fetch_teacher
from fd_scale.cli import main
from fd_scale.errors import BadInput
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

MODEL = "test_vit.r160_in1k"


@pytest.fixture
def checkpoint(save):
    return save(model_of(MODEL, {}), "weights.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("image_size", [160, 96])
def test_a_staged_teacher_gives_the_tokens_of_its_checkpoint_at_any_size(checkpoint, tmp_path, image_size):
    out = tmp_path / "staged.safetensors"
    fetch_teacher(f"timm:{MODEL}@{checkpoint}", out)
    images = torch.randn(1, 3, image_size, image_size)
    staged, direct = (
        build_teacher(TeacherConfig(spec), image_size) for spec in (f"file:{out}", f"timm:{MODEL}@{checkpoint}")
    )
    assert torch.equal(staged(images), direct(images))
    assert (staged.mean, staged.std, staged.licence) == (direct.mean, direct.std, direct.licence)


def test_the_file_says_architecture_statistics_licence_and_source(checkpoint, tmp_path):
    stated = fetch_teacher(f"timm:{MODEL}@{checkpoint}", tmp_path / "staged.safetensors")
    with safe_open(tmp_path / "staged.safetensors", framework="pt") as file:
        written = json.loads(file.metadata()["fd_scale_teacher"])
    assert written | json.loads(json.dumps(stated)) == written
    assert stated["timm_model"] == MODEL
    assert stated["licence"] == "apache-2.0"
    assert tuple(stated["mean"]) == (0.5, 0.5, 0.5)
    assert stated["source"] == {
        "from": "weights.safetensors",
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }
    assert len(stated["sha256"]) == 64


def test_a_flipped_bit_is_refused(checkpoint, tmp_path):
    out = tmp_path / "staged.safetensors"
    fetch_teacher(f"timm:{MODEL}@{checkpoint}", out)
    content = bytearray(out.read_bytes())
    content[-1000] ^= 1
    out.write_bytes(content)
    with pytest.raises(BadInput, match=r"does not hold what was written .*; copy it again"):
        build_teacher(TeacherConfig(f"file:{out}"), 160)


def test_the_verb_stages_and_prints_licence_and_hash(checkpoint, tmp_path, capsys):
    out = tmp_path / "staged.safetensors"
    with pytest.raises(SystemExit) as ended:
        main(["fetch-teacher", f"timm:{MODEL}@{checkpoint}", str(out)])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "licence apache-2.0, sha256 " in said
    assert f"teacher.spec=file:{out}" in said
    with pytest.raises(BadInput, match="exists; remove it or choose another name"):
        fetch_teacher(f"timm:{MODEL}@{checkpoint}", out)


@pytest.mark.parametrize(
    ("spec", "out", "line"),
    [
        ("demo", "a.safetensors", "describes itself already"),
        (f"timm:{MODEL}@absent.pth", "a.safetensors", "no file .*/absent.pth"),
        (f"timm:{MODEL}@absent.pth", "a.pth", "give it that ending"),
        ("fd_scale:esvit_swin_bas_window14@x.pth", "a.safetensors", "near: esvit_swin_base_window14"),
        ("fd_scale:vit_base@x.pth", "a.safetensors", "set teacher.pixels to one of imagenet, clip, half"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(tmp_path, spec, out, line):
    with pytest.raises(BadInput, match=line) as caught:
        fetch_teacher(spec, tmp_path / out)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match=f"cannot fetch timm:{MODEL} .* run `fd-scale fetch-teacher timm:{MODEL} OUT`"):
        fetch_teacher(f"timm:{MODEL}", tmp_path / "a.safetensors")
    assert not [record for record in caplog.records if "Retry" in record.getMessage()]
