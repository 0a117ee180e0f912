"""Weights load whole or not at all."""

import pytest
import torch
from safetensors.torch import save_file

from fd_scale.errors import BadInput
from fd_scale.models import init
from fd_scale.models.vit import ViT
from fd_scale.models.weights import load_weights


def model(seed: int, image_size: int = 32) -> ViT:
    built = ViT(16, 2, 2, image_size=image_size, patch_size=8)
    init.initialise_all(built, seed)
    return built


def saved(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_what_was_saved_comes_back_in_the_models_type(file, tmp_path):
    source, target = model(0), model(1).bfloat16()
    outcome = load_weights(target, saved(tmp_path / file, source.state_dict()))
    assert outcome.complete
    assert set(outcome.matched) == {name for name, _ in source.named_parameters()}
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert b.dtype == torch.bfloat16
        assert torch.equal(a.bfloat16(), b)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.pop("norm.weight"), r"1 missing \(first: norm.weight\)"),
        (lambda t: t.update({"head.weight": torch.zeros(2)}), r"1 unexpected \(first: head.weight\)"),
        (
            lambda t: t.update({"cls_token": torch.zeros(1, 1, 8)}),
            r"1 of another shape \(first: cls_token is \(1, 1, 8\), the model has \(1, 1, 16\)\)",
        ),
    ],
)
def test_a_file_that_differs_is_refused_and_the_model_untouched(change, line, tmp_path):
    tensors, target = model(0).state_dict(), model(1)
    change(tensors)
    before = {name: p.clone() for name, p in target.named_parameters()}
    with pytest.raises(BadInput, match=line):
        load_weights(target, saved(tmp_path / "weights.safetensors", tensors))
    assert all(torch.equal(before[name], p) for name, p in target.named_parameters())


def test_a_checkpoint_of_another_size_names_the_tensor_and_both_shapes(tmp_path):
    path = saved(tmp_path / "weights.pth", model(0, image_size=64).state_dict())
    with pytest.raises(BadInput, match=r"relative_position_bias_table is \(228, 2\), the model has \(52, 2\)"):
        load_weights(model(1), path)


class Trap:
    def __reduce__(self):
        return print, ("this ran",)


def test_pickled_code_is_refused_and_does_not_run(tmp_path, capsys):
    path = saved(tmp_path / "weights.pth", {"model": Trap()})
    with pytest.raises(BadInput, match="pickled code"):
        load_weights(model(0), path)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_torn_or_foreign_file_is_one_line(file, tmp_path):
    path = saved(tmp_path / file, model(0).state_dict())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=file) as error:
            load_weights(model(0), path)
        assert "\n" not in str(error.value)


def test_nested_or_absent_files_are_named(tmp_path):
    with pytest.raises(BadInput, match="not a flat mapping"):
        load_weights(model(0), saved(tmp_path / "nested.pth", {"model": model(0).state_dict()}))
    with pytest.raises(BadInput, match="no weights file at"):
        load_weights(model(0), tmp_path / "absent.pth")
