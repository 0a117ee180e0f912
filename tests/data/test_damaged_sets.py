"""Packed data that was damaged, or edited, after it was written: `verify` finds it, and whoever reads it is told."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.older import of_format_1
from PIL import Image

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, EvaluationView, ViewConfig
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.loader import TrainingData
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.data.shards import read_index
from fd_scale.errors import BadInput


@pytest.fixture
def packed(tmp_path) -> Path:
    """12 images of 3 classes in 3 shards, whose tars have one size: BMP has it, whatever it shows."""
    for number in range(12):
        path = tmp_path / "images" / f"class_{number % 3}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(path)
    pack(tmp_path / "images", tmp_path / "shards", shard_samples=4)
    return tmp_path / "shards"


@pytest.fixture
def described(packed, tmp_path) -> Path:
    """The same images as another program's shards, with labels in `.cls` members; two shards."""
    import webdataset

    reader = ShardReader(packed)
    folder = tmp_path / "described"
    folder.mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"{shard}.tar")) as tar:
            for number in range(6 * shard, 6 * shard + 6):
                sample = {"__key__": f"{number:03d}", "bmp": reader[number].content, "cls": str(reader.label(number))}
                tar.write(sample)
    index(folder)
    return folder


def where(folder: Path) -> set[str]:
    return {damage.where for damage in verify(folder)}


def read_labels(folder: Path, workers: int = 0) -> None:
    data = EvaluationData(str(folder), 16, EvaluationView(), workers)
    list(data.batches(0, 1, 5))


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def write_member(folder: Path, shard: str, number: int, extension: str, change: Callable[[bytes], bytes]) -> str:
    """Change a member in its place; returns the name of its sample."""
    members = read_index((folder / shard).with_suffix(".idx"))[number]
    (member,) = [member for member in members if member.extension == extension]
    with open(folder / shard, "r+b") as file:
        file.seek(member.offset)
        content = change(file.read(member.bytes))
        assert len(content) == member.bytes
        file.seek(member.offset)
        file.write(content)
    return f"{shard}/{members[0].name}"


def test_exchanged_labels_are_found_by_the_hash_of_the_shard(described):
    labels = [ShardReader(described).label(number) for number in range(6)]
    other = labels.index(1 - labels[0]) if labels[0] < 2 else labels.index(0)
    for number, label in ((0, labels[other]), (other, labels[0])):
        write_member(described, "0.tar", number, "cls", lambda _, label=label: str(label).encode())
    (damage,) = verify(described)
    assert damage.where == "0.tar"
    assert "not the bytes that the manifest says" in damage.reason
    assert "a label may be another one" in damage.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_a_label_that_the_table_does_not_have_is_named_by_its_sample(workers, described):
    sample = write_member(described, "1.tar", 2, "cls", lambda _: b"9")
    assert sample in where(described)
    with pytest.raises(BadInput) as refused:
        read_labels(described, workers)
    said = f"{described}: sample {sample} is of class '9', which is not among the classes of manifest.json; `fd-scale"
    assert str(refused.value).startswith(said)
    assert "Traceback" not in str(refused.value)


def test_a_label_of_minus_one_is_named_by_its_sample(tmp_path, described):
    """As long as the label before it, so that nothing else shows."""
    path = tmp_path / "long"
    path.mkdir()
    with tarfile.open(described / "0.tar") as ours, tarfile.open(path / "0.tar", "w") as theirs:
        for member in ours:
            content = ours.extractfile(member).read()
            content = b"1" + content if member.name.endswith(".cls") else content
            member.size = len(content)
            theirs.addfile(member, io.BytesIO(content))
    index(path)
    sample = write_member(path, "0.tar", 3, "cls", lambda _: b"-1")
    assert sample in where(path)
    with pytest.raises(BadInput, match=r"is of class '-1', which is not among the classes"):
        read_labels(path)


def test_a_packed_label_is_held_to_its_number_in_the_table(packed):
    """The name of a class became that of another one, as one flipped bit can do."""
    sample = write_member(packed, "shard-000001.tar", 1, "json", lambda text: other_class(text))
    assert where(packed) == {sample}
    with pytest.raises(BadInput, match=r"gives class 'class_\d' the number \d, manifest.json gives it \d"):
        read_labels(packed)


def other_class(text: bytes) -> bytes:
    number = json.loads(text)["label"]
    return text.replace(f"class_{number}".encode(), f"class_{(number + 1) % 3}".encode())


def test_training_with_labels_is_told_in_one_line_too(packed):
    for number in range(4):
        write_member(packed, "shard-000001.tar", number, "json", other_class)
    data = TrainingData(DataConfig(str(packed), ViewConfig(image_size=16), workers=1), seed=0, labelled=True)
    with pytest.raises(BadInput, match=r"^\S*shards: sample shard-000001.tar/\d+.bmp gives class") as refused:
        list(data.micro_batches(range(1), 0, BatchPlan(12, 12, 1)))
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("suffixes", [(".tar",), (".idx",), (".tar", ".idx")])
def test_exchanged_shards_and_indexes_are_named(suffixes, packed):
    assert len({path.stat().st_size for path in packed.glob("*.tar")}) == 1
    for suffix in suffixes:
        swap(packed / f"shard-000000{suffix}", packed / f"shard-000002{suffix}")
    assert where(packed) == {f"shard-00000{number}{suffixes[0]}" for number in (0, 2)}
    assert all("holds what the manifest calls shard-00000" in damage.reason for damage in verify(packed))
    with pytest.raises(BadInput, match=r"is not the (shard of its index|index that was written)"):
        read_labels(packed)


def test_a_shard_that_was_copied_over_another_is_named(packed):
    shutil.copy(packed / "shard-000001.tar", packed / "shard-000002.tar")
    (damage,) = verify(packed)
    assert damage.where == "shard-000002.tar"
    assert "holds what the manifest calls shard-000001.tar" in damage.reason
    with pytest.raises(BadInput, match=r"shard-000002.tar is not the shard of its index"):
        read_labels(packed)


def list_twice(content: Any) -> None:
    content["shards"].append(content["shards"][0])
    content["samples"] += content["shards"][0]["samples"]
    content["bytes"] += content["shards"][0]["bytes"]


def exchange_numbers(content: Any) -> None:
    one, other, *_ = content["classes"]
    one["label"], other["label"] = other["label"], one["label"]


def exchange_order(content: Any) -> None:
    content["shards"][:2] = content["shards"][1::-1]


def exchange_names(content: Any) -> None:
    one, other, *_ = content["shards"]
    one["name"], other["name"] = other["name"], one["name"]


def label_of_minus_one(content: Any) -> None:
    content["classes"][0]["label"] = -1


def forget_a_class(content: Any) -> None:
    del content["classes"][1]


def count_otherwise(content: Any) -> None:
    content["classes"][0]["samples"] -= 1
    content["classes"][1]["samples"] += 1


def forget_a_shard(content: Any) -> None:
    gone = content["shards"].pop()
    content["samples"] -= gone["samples"]
    content["bytes"] -= gone["bytes"]
    content["classes"] = []


EDITS = [
    (list_twice, "lists shard 'shard-000000.tar' twice"),
    (exchange_numbers, "the number"),
    (exchange_order, "order of their names"),
    (exchange_names, "holds what the manifest calls"),
    (label_of_minus_one, "classes[0].label is -1"),
    (forget_a_class, "which is not among the classes of manifest.json"),
    (count_otherwise, "gives class number 0 3 samples, the shards hold 4"),
]


@pytest.mark.parametrize("edit", [edit for edit, _ in EDITS] + [forget_a_shard])
def test_an_edited_manifest_is_refused_when_the_data_set_is_opened(edit, packed):
    path = packed / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    said = r"manifest.json is damaged: (it does not say what was written|it lists|classes\[0\].label)"
    for read in (verify, ShardReader):
        with pytest.raises(BadInput, match=said):
            read(packed)


@pytest.mark.parametrize(("edit", "reason"), EDITS)
def test_a_manifest_without_a_hash_is_compared_with_the_shards(edit, reason, packed):
    with of_format_1(packed) as content:
        edit(content)
    try:
        said = "\n".join(map(str, verify(packed)))
    except BadInput as error:
        said = str(error)
    assert reason in said


def test_data_sets_of_format_1_are_read_and_verified_and_what_cannot_be_checked_is_said(packed, capsys):
    before = [(sample.content, label) for sample, label in every(ShardReader(packed))]
    assert verify(packed) == []
    assert capsys.readouterr().err == ""
    with of_format_1(packed):
        pass
    assert [(sample.content, label) for sample, label in every(ShardReader(packed))] == before
    assert verify(packed) == []
    said = capsys.readouterr().err
    assert "was written by an earlier version: its manifest.json holds no hash of itself and of the indexes" in said
    with of_format_1(packed) as content:  # the first versions said no more
        for name in ("bytes", "skipped", "options", "versions", "classes"):
            del content[name]
    assert [sample.content for sample, _ in every(ShardReader(packed), labels=False)] == [c for c, _ in before]


def every(reader: ShardReader, labels: bool = True) -> list:
    return [(reader[number], reader.label(number) if labels else None) for number in range(len(reader))]


@pytest.mark.parametrize("format", [1, 2])
@pytest.mark.parametrize(
    "line",
    [
        "bmp -512 1254 NAME json 2560 99 x",
        "bmp 513 1254 NAME",
        "bmp 0 1254 NAME",
        "bmp 1024 999999999 NAME",
        f"bmp 512 {'9' * 30} NAME",
        f"bmp {'9' * 5000} 5 NAME",
        "bmp 512 -5 NAME",
        "bmp 512 1.5 NAME",
        "bmp nan 1254 NAME",
        "bmp 512",
        "bmp 512 1254 NAME json 1024 99 x",
        "",
    ],
)
def test_an_index_that_leads_out_of_its_shard_is_refused_when_it_is_read(line, format, packed):
    path = packed / "shard-000001.idx"
    lines = path.read_text().splitlines()
    lines[2] = line.replace("NAME", lines[2].split(" ")[3])
    path.write_text("\n".join(lines) + "\n")
    if format == 1:
        with of_format_1(packed):
            pass
    with pytest.raises(BadInput, match=r"shard-000001"):
        every(ShardReader(packed))
    assert where(packed)


def test_files_of_a_data_set_that_are_no_files_are_refused_and_not_waited_for(packed, tmp_path):
    for name in ("manifest.json", "shard-000000.idx", "shard-000000.tar"):
        copy = shutil.copytree(packed, tmp_path / f"fifo-{name}")
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(BadInput, match=rf"{name} is not a regular file"):
            ShardReader(copy)
        if name != "manifest.json":
            assert where(copy) == {name}
    (packed / "manifest.json").unlink()
    (packed / "manifest.json").mkdir()
    with pytest.raises(BadInput, match=r"manifest.json is not a regular file"):
        verify(packed)
    with pytest.raises(BadInput, match=r"name too long"):
        verify(packed / ("x" * 300))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_away_is_one_line(workers, packed):
    data = EvaluationData(str(packed), 16, EvaluationView(), workers)
    (packed / "shard-000002.tar").unlink()
    with pytest.raises(BadInput, match=r"^\S*shard-000002.tar is missing; copy the data set again or pack it again$"):
        list(data.batches(0, 1, 5))
