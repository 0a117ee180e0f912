"""The record of a student family is all that the rest of the library asks: one more needs no change elsewhere."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models import families, init
from fd_scale.models.config import StudentConfig
from fd_scale.models.families.family import Family
from fd_scale.models.families.vit import ViTWeights
from fd_scale.models.vit import ViT, ViTSize
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.weights.reading import read_file
from fd_scale.models.weights.student import student_of
from fd_scale.models.zoo import build_student
from fd_scale.tasks.config import FinetuneConfig
from fd_scale.tasks.finetuning import norm_of
from fd_scale.teachers import our_models


class Striped(ViT):
    """A network of its own, as far as the library can tell."""


class StripedWeights(ViTWeights):
    architecture = "Striped"
    mark = r"^blocks\.\d+\.stripes\.qkv\.weight$"

    def renaming(self, names):
        return lambda name: name.replace(".stripes.", ".attn.")

    def format(self, names):
        return "Striped's own"

    def student(self, file, tensors, bare):
        return StudentConfig("striped_nano"), 32


@pytest.fixture
def striped(monkeypatch):
    family = Family(
        title="Striped",
        model=Striped,
        build=lambda config, size: Striped(16, 2, 2, image_size=size, patch_size=8, drop_path=config.drop_path),
        weights=StripedWeights(),
        keys=frozenset({"window"}),
        final_norm="kept",
        sizes={"striped_nano": ViTSize(16, 2, 2, patch_size=8)},
        position_biases=("shared",),
        native_size=32,
        pixels="half",
    )
    monkeypatch.setattr(families, "FAMILIES", (family, *families.FAMILIES))


def test_every_name_has_one_family():
    for name in families.names():
        assert [family.title for family in families.FAMILIES if family.has(name)] == [families.family_of(name).title]


def test_a_family_of_ones_own_is_built_by_its_name_and_owns_its_keys(striped):
    assert type(build_student(StudentConfig("striped_nano"), 32)) is Striped
    with pytest.raises(BadInput, match="position_bias is a key of SwinV2 and ViT; striped_nano has no use for it"):
        build_student(StudentConfig("striped_nano", position_bias="shared"), 32)
    with pytest.raises(BadInput, match="window is a key of Striped and SwinV2; vit_tiny has no use for it"):
        build_student(StudentConfig("vit_tiny", window=3), 32)
    with pytest.raises(BadInput, match="did you mean striped_nano"):
        build_student(StudentConfig("stripe_nano"), 32)


def test_its_published_files_are_recognised_and_loaded(striped, tmp_path):
    model = build_student(StudentConfig("striped_nano"), 32)
    init.initialise_all(model, 0)
    path = tmp_path / "striped.pth"
    torch.save({name.replace(".attn.", ".stripes."): value for name, value in model.state_dict().items()}, path)
    assert student_of(read_file(path)) == (StudentConfig("striped_nano"), 32)
    empty = build_student(StudentConfig("striped_nano"), 32)
    assert load_weights(empty, path).format == "Striped's own"
    assert all(torch.equal(value, empty.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(BadInput, match="they are of a Striped, and the student is a ViT"):
        load_weights(build_student(StudentConfig("vit_tiny"), 32), path)
    with pytest.raises(
        BadInput, match="weights are fitted to the students Striped and SwinV2 and ViT, not to a Linear"
    ):
        load_weights(nn.Linear(1, 1), path)


def test_tasks_and_teachers_take_its_word(striped):
    config = SimpleNamespace(finetune=FinetuneConfig(), student=StudentConfig("striped_nano"))
    assert norm_of(config) == "kept"
    assert our_models.native_size("striped_nano") == 32
    assert our_models.usual_pixels("striped_nano") == "half"
