import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.data.shards import read_manifest
from fd_scale.errors import BadInput


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


def test_the_tars_are_what_webdatasets_own_writer_makes(shards, tmp_path):
    shard = shards / "shard-000000.tar"
    with open(tmp_path / "again.tar", "wb") as file:
        writer = webdataset.TarWriter(file, user="fd_scale", group="fd_scale", mtime=0, encoder=False)
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
            writer.write({"__key__": sample["__key__"], "jpg": sample["jpg"], "json": sample["json"]})
        writer.close()
    assert (tmp_path / "again.tar").read_bytes() == shard.read_bytes()


def test_the_manifest_says_where_everything_came_from(image_folder, shards):
    content = json.loads((shards / "manifest.json").read_text())
    assert content["format"] == 2
    assert content["samples"] == 48
    assert content["bytes"] == sum(tar.stat().st_size for tar in shards.glob("*.tar"))
    assert content["seed"] == 0
    assert content["options"] == {"shard_samples": 20, "short_side": None}
    assert content["versions"]["fd_scale"]
    assert (content["source"]["kind"], content["source"]["name"]) == ("folder", image_folder.name)
    for shard in content["shards"]:
        assert hashlib.sha256((shards / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


def test_another_seed_places_otherwise(image_folder, shards, tmp_path):
    other = pack(image_folder, tmp_path / "other", shard_samples=20, seed=1)
    assert other.fingerprint() != read_manifest(shards).fingerprint()
    assert other.samples == 48


def test_bad_images_are_left_out_and_listed(image_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(image_folder, source)
    (source / "class_0" / "empty.jpg").touch()
    (source / "class_1" / "words.png").write_text("not a picture")
    cut = source / "class_1" / "001.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    manifest = pack(source, tmp_path / "out", shard_samples=7, skip_bad=True)
    assert (manifest.samples, manifest.skipped) == (47, 3)
    assert manifest.classes == (("class_0", 0, 24), ("class_1", 1, 23))
    listed = dict(line.split("\t") for line in (tmp_path / "out" / "skipped.txt").read_text().splitlines())
    assert listed["class_0/empty.jpg"] == "empty"
    assert listed["class_1/words.png"] == "not an image"
    assert "truncated" in listed["class_1/001.jpg"]
    assert len(ShardReader(tmp_path / "out")) == 47
    assert verify(tmp_path / "out") == []


def test_a_shard_of_bad_images_alone_is_not_there(image_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.jpg").touch()
    with pytest.raises(BadInput, match="none of the 4 images"):
        pack(source, tmp_path / "out", skip_bad=True)
    shutil.copy(next(image_folder.rglob("*.jpg")), source / "good.jpg")
    manifest = pack(source, tmp_path / "out", shard_samples=1, skip_bad=True)
    assert (len(manifest.shards), manifest.samples, manifest.skipped) == (1, 1, 4)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    assert len(ShardReader(tmp_path / "out")) == 1


def test_what_is_too_large_is_shrunk_and_the_rest_keeps_its_bytes(image_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(image_folder, source)  # 60 x 50
    gradient = np.linspace(0, 255, 400, dtype=np.uint8)
    large = Image.fromarray(np.stack([np.tile(gradient, (300, 1))] * 3, axis=-1))
    large.save(source / "class_0" / "large.jpg", quality=95)
    large.save(source / "class_0" / "large.bmp")
    pack(source, tmp_path / "out", short_side=50)
    content = {}
    for sample in webdataset.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False):
        content[json.loads(sample["json"])["origin"]] = sample["jpg"]
    for name in ("class_0/large.jpg", "class_0/large.bmp"):
        image = Image.open(io.BytesIO(content.pop(name)))
        assert (image.format, image.size) == ("JPEG", (67, 50))
        expected = large.resize((67, 50), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 1
    assert content == {str(p.relative_to(image_folder)): p.read_bytes() for p in image_folder.rglob("*.jpg")}


def test_classes_are_spread_over_the_shards(shards):
    manifest = read_manifest(shards)
    assert [shard.samples for shard in manifest.shards] == [20, 20, 8]
    with tarfile.open(shards / "shard-000000.tar") as tar:
        facts = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    assert {(fact["class"], fact["label"]) for fact in facts} == {("class_0", 0), ("class_1", 1)}
    assert manifest.classes == (("class_0", 0, 24), ("class_1", 1, 24))


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
    with pytest.raises(BadInput, match="is the source itself; webdataset shards are described in place"):
        pack(tmp_path, tmp_path)
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
        (
            lambda folder: (folder / "manifest.json").write_text(
                '{"format": 9, "shards": [], "seed": 0, "source": {}}'
            ),
            "has format 9",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace("shard-000000", "../shard-000000")
            ),
            "outside of its folder",
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
