import json
import tarfile

import pytest
import webdataset
from PIL import Image

from fd_scale.data.pack import pack
from fd_scale.data.reader import ShardReader
from fd_scale.data.shards import read_manifest
from fd_scale.errors import BadInput

EMPTY = '{"shards": [], "seed": 0, "source": {}}'


def test_plain_webdataset_reads_every_original_byte(image_folder, shards):
    originals = {str(p.relative_to(image_folder)): p.read_bytes() for p in image_folder.rglob("*.jpg")}
    read = {}
    for tar in sorted(shards.glob("*.tar")):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            read[json.loads(sample["json"])["origin"]] = sample["jpg"]
    assert read == originals


def test_the_index_reaches_what_the_tar_holds(shards):
    reader = ShardReader(shards)
    by_tar = []
    for tar in sorted(shards.glob("*.tar")):
        with tarfile.open(tar) as opened:
            members = (m for m in opened if m.name.endswith(".jpg"))
            by_tar += [(f"{tar.name}/{m.name}", opened.extractfile(m).read()) for m in members]
    assert [(sample.id, sample.content) for sample in (reader[i] for i in range(len(reader)))] == by_tar
    assert len(reader) == 48


def test_the_same_images_give_the_same_bytes(image_folder, shards, tmp_path):
    pack(image_folder, tmp_path / "again", shard_samples=20)
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == {
        p.name: p.read_bytes() for p in shards.iterdir()
    }


def test_classes_are_spread_over_the_shards(shards):
    manifest = read_manifest(shards)
    assert [shard.samples for shard in manifest.shards] == [20, 20, 8]
    folders = set()
    with tarfile.open(shards / "shard-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".json"):
                folders.add(json.load(tar.extractfile(member))["folder"])
    assert folders == {"class_0", "class_1"}


def test_a_text_file_named_jpg_is_refused_by_name_and_nothing_is_left(image_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    Image.new("RGB", (8, 8)).save(source / "good.png")
    (source / "words.jpg").write_text("not a picture")
    with pytest.raises(BadInput, match=r"words\.jpg does not decode: not an image"):
        pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_truncated_jpeg_is_refused(image_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    whole = next(image_folder.rglob("*.jpg")).read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"cut\.jpg does not decode"):
        pack(source, tmp_path / "out")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="no images in"):
        pack(tmp_path, tmp_path / "out")
    with pytest.raises(BadInput, match="is not a folder"):
        pack(tmp_path / "absent", tmp_path / "out")


def test_a_folder_in_use_is_not_overwritten(image_folder, tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(BadInput, match="not empty"):
        pack(image_folder, tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a manifest"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"shards": [], "seed": 0, "source": {}}'),
            "zero shards",
        ),
        (lambda folder: (folder / "shard-000001.tar").unlink(), "shard-000001.tar is missing"),
        (lambda folder: (folder / "shard-000001.tar").write_bytes(b"short"), "shard-000001.tar is torn"),
        (lambda folder: (folder / "shard-000000.idx").unlink(), "shard-000000.idx is missing"),
        (lambda folder: (folder / "shard-000000.idx").write_text("v1.2 3\n"), "its shard holds 20 samples"),
    ],
)
def test_a_damaged_data_set_is_refused_by_name(image_folder, tmp_path, damage, line):
    pack(image_folder, tmp_path / "shards", shard_samples=20)
    damage(tmp_path / "shards")
    with pytest.raises(BadInput, match=line):
        ShardReader(tmp_path / "shards")
