"""What was exported, converted or staged is what is read, or it is refused; older files are read as they are."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fd_scale.errors import BadInput
from fd_scale.export import load_classifier, load_student, origin_of, write_student
from fd_scale.models.weights.reading import read_file
from fd_scale.models.weights.sealed import OF_DESCRIPTION, SHA256, STUDENT_KEY, TEACHER_KEY
from fd_scale.teachers.files import describe, write

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([0.5, -1.0]).bfloat16(), "c": torch.zeros(())}
ORIGIN = {
    "student": {"name": "vit_tiny"},
    "image_size": 32,
    "pixels": {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
    "classes": 2,
    "class_names": {"ant": 0, "bee": 1},
}
STATED = {"timm_model": "vit_tiny_patch16_224", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "licence": "MIT"}


def exported(path: Path) -> Path:
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    write_student(path, plan, ORIGIN, TENSORS.__getitem__)
    return path


def staged(path: Path) -> Path:
    write(path, TENSORS, STATED)
    return path


def content(path: Path, key: str, known: dict) -> tuple:
    """The tensors, and what the file says under the known names."""
    file = read_file(path)
    stated = json.loads(file.metadata[key])
    tensors = sorted((name, str(t.dtype), t.shape, t.tolist()) for name, t in file.tensors.items())
    return tensors, {name: stated[name] for name in known}


@pytest.mark.parametrize(
    ("make", "key", "known"), [(exported, STUDENT_KEY, ORIGIN), (staged, TEACHER_KEY, STATED)], ids=["export", "staged"]
)
def test_no_flipped_bit_is_read_without_a_word(make, key, known, tmp_path):
    path = make(tmp_path / "file.safetensors")
    whole, expected = path.read_bytes(), content(path, key, known)
    draw = random.Random(0)
    outcomes = {"refused": 0, "harmless": 0}
    for bit in draw.sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = content(path, key, known)
        except (BadInput, KeyError):  # not by the key: the file is no longer one of ours
            outcomes["refused"] += 1
        else:
            assert found == expected, f"bit {bit} is read without a word"
            outcomes["harmless"] += 1
    assert outcomes["refused"] > 290


def changed(path: Path, key: str, change) -> Path:
    """The file with another description, by a program that knows nothing of hashes."""
    with safe_open(path, framework="pt") as file:
        stated = json.loads(file.metadata()[key])
    change(stated)
    save_file(load_file(path), path, metadata={key: json.dumps(stated)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda stated: stated["class_names"].update(ant=1, bee=0),
        lambda stated: stated["pixels"].update(mean=[0.4, 0.5, 0.5]),
        lambda stated: stated.update(image_size=64),
        lambda stated: stated.pop("classes"),
        lambda stated: stated.update(more=1),
    ],
)
def test_an_export_that_says_something_else_is_refused_by_whoever_reads_it(change, tmp_path):
    path = changed(exported(tmp_path / "file.safetensors"), STUDENT_KEY, change)
    for read in (read_file, origin_of, load_student, load_classifier, describe):
        with pytest.raises(BadInput, match=r"does not hold what was written \(sha256 of its description\)"):
            read(path)


def test_a_staged_teacher_that_says_something_else_is_refused(tmp_path):
    path = changed(staged(tmp_path / "file.safetensors"), TEACHER_KEY, lambda stated: stated.update(licence="none"))
    for read in (read_file, describe):
        with pytest.raises(BadInput, match=r"sha256 of its description"):
            read(path)


def test_files_of_earlier_versions_are_read(tmp_path):
    """Exports had no hash, staged teachers one of their tensors."""
    path = changed(
        exported(tmp_path / "file.safetensors"),
        STUDENT_KEY,
        lambda stated: [stated.pop(key) for key in (SHA256, OF_DESCRIPTION)] and stated.update(image_size=64),
    )
    assert origin_of(path)["image_size"] == 64
    assert read_file(path).tensors.keys() == TENSORS.keys()
    path = changed(
        staged(tmp_path / "teacher.safetensors"), TEACHER_KEY, lambda stated: stated.pop(OF_DESCRIPTION) and None
    )
    assert describe(path).facts.licence == "MIT"
    assert read_file(path).tensors.keys() == TENSORS.keys()


def test_a_mixture_or_a_copy_gets_hashes_of_its_own(tmp_path):
    first = exported(tmp_path / "first.safetensors")
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in other.items()}
    write_student(tmp_path / "second.safetensors", plan, {**origin_of(first), "step": 3}, other.__getitem__)
    assert origin_of(tmp_path / "second.safetensors")[SHA256] != origin_of(first)[SHA256]
    assert torch.equal(read_file(tmp_path / "second.safetensors").tensors["b"], other["b"])
