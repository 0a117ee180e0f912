"""What is in a checkpoint on disk, and that nothing damaged is ever taken for whole."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.parts import sweep

from fd_scale.errors import BadInput
from fd_scale.parallel.checkpoint.reader import CheckpointReader, damage, newest_whole
from fd_scale.parallel.checkpoint.storage import open_storage

FILES = ("rank_00000.safetensors", "rank_00001.safetensors", "checkpoint.json", "manifest.json")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A folder with steps 2 and 3, both whole."""
    for step in (2, 3):
        shutil.copytree(saved / "step_00000003", tmp_path / f"step_0000000{step}")
    return tmp_path


def test_any_reader_of_safetensors_and_json_understands_it(saved):
    folder = saved / "step_00000003"
    assert {p.name for p in folder.iterdir()} == set(FILES)
    ranks = [load_file(folder / name) for name in FILES[:2]]
    assert "optimizer.exp_avg/head.weight" in ranks[0].keys() | ranks[1].keys()
    total = sum(rank[name].numel() for rank in ranks for name in rank if name.startswith("weight/"))
    reader = CheckpointReader(open_storage(saved), 3)
    assert total == sum(torch.Size(reader.shape(name)).numel() for name in reader.names())
    record = json.loads((folder / "checkpoint.json").read_text())
    assert record["step"] == 3
    assert record["world"] == 2
    assert record["optimizer"] == "AdamW"
    assert record["record"] == {"note": "kept"}


def test_a_reader_knows_what_is_there(saved):
    reader = CheckpointReader(open_storage(saved), 3)
    assert reader.keys == ["ema", "optimizer.exp_avg", "optimizer.exp_avg_sq", "weight"]
    assert reader.scalars["head.weight"] == {"step": ["float32", 3.0]}
    assert reader.record == {"note": "kept"}
    whole = reader.read("head.weight")
    assert torch.equal(reader.read("head.weight", start=5, elements=90), whole[5:95])
    with pytest.raises(BadInput, match=r"holds no weight/tail\.weight"):
        reader.read("tail.weight")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / "step_00000003" / name).unlink()
    step, (problem,) = newest_whole(open_storage(copy))
    assert step == 2
    assert name in problem


@pytest.mark.parametrize("name", FILES)
def test_a_torn_file_is_named(copy, name):
    file = copy / "step_00000003" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    step, (problem,) = newest_whole(open_storage(copy))
    assert step == 2
    assert name in problem


@pytest.mark.parametrize("name", FILES[:3])
def test_one_flipped_bit_anywhere_is_named(copy, name):
    file = copy / "step_00000003" / name
    content = file.read_bytes()
    for seed in range(20):
        generator = random.Random(seed)
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(flipped)
        assert damage(open_storage(copy), 3) == f"{file} does not have the sha256 that it was written with"


@pytest.mark.parametrize(
    ("name", "count"), sweep([(name, n) for name in FILES for n in (12, 200)], [(name, 12) for name in FILES])
)
def test_no_flipped_byte_of_any_file_is_taken_for_whole(name, count, copy):
    """Harmless is what leaves the same manifest; nothing else is."""
    file = copy / "step_00000003" / name
    content = file.read_bytes()
    draw = random.Random(0)
    for _ in range(count):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        file.write_bytes(flipped)
        if damage(open_storage(copy), 3) is None:
            assert name == "manifest.json"
            assert json.loads(flipped) == json.loads(content)


def test_a_flipped_bit_in_the_manifest_never_makes_a_checkpoint_look_whole(copy):
    """It names a wrong file, size or hash, or is no JSON; or it changes nothing that counts, as a space to a tab."""
    file = copy / "step_00000003" / "manifest.json"
    content = file.read_bytes()
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1
        file.write_bytes(flipped)
        if damage(open_storage(copy), 3) is None:
            assert json.loads(flipped) == json.loads(content)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"files": 1}', '{"files": {"../step_00000002/checkpoint.json": {"bytes": 1, "sha256": "x"}}}']
)
def test_a_manifest_of_something_else_is_damage(copy, text):
    (copy / "step_00000003" / "manifest.json").write_text(text)
    step, (problem,) = newest_whole(open_storage(copy))
    assert step == 2
    assert problem.endswith("has no readable manifest.json")


def test_when_all_are_damaged_none_is_chosen(copy):
    for step in (2, 3):
        (copy / f"step_0000000{step}" / "checkpoint.json").unlink()
    step, problems = newest_whole(open_storage(copy))
    assert step is None
    assert len(problems) == 2


def test_a_file_that_cannot_be_read_is_named(copy):
    file = copy / "step_00000003" / FILES[0]
    file.unlink()
    file.mkdir()  # reading it fails, whoever asks
    entry = json.loads((copy / "step_00000003/manifest.json").read_text())
    entry["files"][FILES[0]]["bytes"] = file.stat().st_size
    (copy / "step_00000003/manifest.json").write_text(json.dumps(entry))
    assert damage(open_storage(copy), 3) == f"{file} cannot be read (Is a directory)"


def test_ranks_share_the_hashing_and_miss_nothing(copy):
    for name in FILES[:3]:
        file = copy / "step_00000003" / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        answers = [damage(open_storage(copy), 3, rank, 2) for rank in range(2)]
        assert sum(answer is not None for answer in answers) == 1
        file.write_bytes(content)


def test_another_version_of_the_format_is_refused_with_the_version_that_wrote_it(copy):
    file = copy / "step_00000003" / "checkpoint.json"
    content = json.loads(file.read_text())
    content["format"], content["versions"]["fd-scale"] = 99, "9.9"
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"has checkpoint format 99, this fd_scale reads 2.*wrote it: 9\.9"):
        CheckpointReader(open_storage(copy), 3)
