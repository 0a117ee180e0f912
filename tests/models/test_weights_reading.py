"""Files from others: their tensors are read, nothing that they say is run, and what is no such file is one line."""

import argparse
import builtins
import importlib
import os
import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fd_scale.errors import BadInput
from fd_scale.models.weights.reading import read_file

TENSORS = {"blocks.0.norm1.weight": torch.arange(3.0), "norm.bias": torch.ones(2)}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


class CfgNode(dict):
    """Looks in a pickle like the configuration of yacs, which need not be installed."""

    __module__ = "yacs.config"


@pytest.fixture
def yacs(monkeypatch):
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)


PUBLISHED = {
    "args": argparse.Namespace(lr=1e-3, output=pathlib.PosixPath("/somewhere"), nested=argparse.Namespace(a=[1])),
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1}]},
    "best": np.float64(83.1),
    "epoch": 7,
}


@pytest.mark.parametrize("legacy", [False, True])
def test_the_objects_that_published_files_hold_beside_their_tensors_do_not_matter(yacs, legacy, tmp_path):
    config = CfgNode(MODEL=CfgNode(TYPE="swin_v2"), lr=1)
    content = {"model": TENSORS, "config": config, **PUBLISHED}
    options = {"_use_new_zipfile_serialization": not legacy}
    file = read_file(saved(tmp_path / "file.pth", content, **options))
    assert file.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert file.key == "model"
    assert set(file.aside) == {"config", *PUBLISHED}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (TENSORS, ""),
        ({"model": TENSORS}, "model"),
        ({"state_dict": TENSORS, "arch": "vit"}, "state_dict"),
        ({"student": {"norm.bias": torch.zeros(2)}, "teacher": TENSORS}, "teacher"),
        ({"model": {"student": TENSORS}}, "model.student"),
        ({"module": {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()}}, "module"),
    ],
)
def test_tensors_are_found_under_the_keys_of_published_files(content, key, tmp_path):
    file = read_file(saved(tmp_path / "file.pth", content))
    assert file.key == key
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert not any(tensor.requires_grad for tensor in file.tensors.values())


def test_another_key_can_be_asked_for(tmp_path):
    path = saved(tmp_path / "file.pth", {"model": {"a": torch.zeros(1)}, "model_ema": TENSORS})
    assert read_file(path, "model_ema").tensors.keys() == TENSORS.keys()
    with pytest.raises(BadInput, match="no mapping under 'ema'; its keys: model, model_ema"):
        read_file(path, "ema")


class Runs:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Builds:
    """Pickled as an inert object whose state is a call."""

    def __init__(self, inside):
        self.inside = inside

    def __reduce__(self):
        return argparse.Namespace, (), {"x": self.inside}


def attacks(marker):
    command = f"touch {marker}"
    return {
        "system": Runs(os.system, command),
        "popen": Runs(subprocess.Popen, ["touch", str(marker)]),
        "eval": Runs(builtins.eval, f"__import__('os').system({command!r})"),
        "exec": Runs(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "open": Runs(builtins.open, str(marker), "w"),
        "import": Runs(importlib.import_module, "antigravity"),
        "getattr": Runs(builtins.getattr, argparse.Namespace, "__init__"),
        "write": Runs(pathlib.Path.touch, pathlib.PosixPath(marker)),
        "unpickle": Runs(pickle.loads, pickle.dumps(Runs(os.system, command))),
        "torch": Runs(torch.load, str(marker)),
        "numpy": Runs(np.save, str(marker), 1),
        "in a namespace": argparse.Namespace(x=Runs(os.system, command)),
        "as a state": Builds(Runs(os.system, command)),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("attack", list(attacks("")))
def test_a_malicious_pickle_is_refused_in_one_line_and_nothing_of_it_runs(attack, legacy, tmp_path):
    marker = tmp_path / "it_ran"
    content = {"model": TENSORS, "args": attacks(marker)[attack]}
    path = saved(tmp_path / "file.pth", content, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match="pickled code") as error:
        read_file(path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("it_ran*"))


def test_the_same_attack_would_run_elsewhere(tmp_path):
    """So that the test above can fail."""
    marker = tmp_path / "it_ran"
    path = saved(tmp_path / "file.pth", {"args": attacks(marker)["system"]})
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_plain_pickle_named_as_safetensors_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(pickle.dumps(Runs(os.system, f"touch {tmp_path / 'it_ran'}")))
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        read_file(path)
    assert not (tmp_path / "it_ran").exists()


def test_stand_ins_are_gone_after_reading(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # a list of a set: in another order each time
    read_file(saved(tmp_path / "file.pth", {"model": TENSORS, **PUBLISHED}))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.pth", weights_only=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_says_how_to_get_at_its_weights(tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(BadInput, match=r"TorchScript archive.*OpenAI's CLIP.*torch\.jit\.load\(PATH\)\.state_dict\(\)"):
        read_file(path)


def test_a_pickled_module_is_refused_with_its_class(tmp_path):
    path = saved(tmp_path / "file.pth", torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match=r"it asks for torch\.nn\.modules\.linear\.Linear"):
        read_file(path)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth", "legacy.pth"])
def test_a_torn_or_foreign_file_is_one_line(file, tmp_path):
    path = tmp_path / file
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        saved(path, {"model": TENSORS}, _use_new_zipfile_serialization=file != "legacy.pth")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"not weights at all", whole[::-1]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=file) as error:
            read_file(path)
        assert "\n" not in str(error.value)


def test_absent_files_and_files_without_named_tensors_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no weights file at"):
        read_file(tmp_path / "absent.pth")
    with pytest.raises(BadInput, match=r"holds no tensors by name.*its keys: epoch, args.*save its state dict alone"):
        read_file(saved(tmp_path / "none.pth", {"epoch": 1, "args": {}}))
    with pytest.raises(BadInput, match="holds a list, not a mapping of tensors"):
        read_file(saved(tmp_path / "list.pth", [torch.zeros(1)]))
    with pytest.raises(BadInput, match="holds no tensors by name"):
        read_file(saved(tmp_path / "numbers.pth", {1: torch.zeros(1)}))


def test_the_metadata_of_safetensors_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "file.safetensors", metadata={"licence": "MIT"})
    assert read_file(tmp_path / "file.safetensors").metadata == {"licence": "MIT"}


def test_a_file_that_holds_itself_is_refused_at_once(tmp_path):
    for build in (
        lambda inside: inside.update(model=inside, w=torch.ones(3)),
        lambda inside: inside.update(state_dict={"model": inside}, w=torch.ones(3)),
        lambda inside: inside.update({"ema": {"model": {"state_dict": inside}}, "w": torch.ones(3)}),
    ):
        content: dict = {}
        build(content)
        with pytest.raises(BadInput, match=r"holds itself under .*, or wrappers without end; save its"):
            read_file(saved(tmp_path / "file.pth", content))


def test_mappings_that_are_shared_are_looked_into_once(tmp_path):
    """A thousand names of one mapping, at each of four levels, would be looked at a million million times."""
    inside: dict = {"nothing": 1}
    for _ in range(6):
        inside = {f"name_{number}": inside for number in range(1000)}
    with pytest.raises(BadInput, match="holds no tensors by name"):
        read_file(saved(tmp_path / "file.pth", {"model": inside}))


def test_a_tensor_that_is_larger_than_what_is_stored_of_it_is_refused(tmp_path):
    """A file of a kilobyte that would take four terabytes."""
    view = torch.ones(1).expand(1_000_000, 1_000_000)
    for odd in (view, torch.ones(3).to_sparse(), torch.empty(3, device="meta")):
        file = saved(tmp_path / "file.pth", {"blocks.0.norm1.weight": torch.ones(2), "norm.bias": odd})
        with pytest.raises(BadInput, match="1 of its 2 tensors are sparse, without numbers, or show fewer numbers"):
            read_file(file)
    part = torch.arange(6.0).view(2, 3)[:, :2]  # less than what is stored
    assert torch.equal(read_file(saved(tmp_path / "file.pth", {"norm.bias": part})).tensors["norm.bias"], part)
