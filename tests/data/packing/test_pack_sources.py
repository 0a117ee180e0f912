"""Every kind of source, and that it makes no difference where the same images come from."""

import csv
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fd_scale.data.packing.pack import pack
from fd_scale.data.reader import ShardReader
from fd_scale.data.shards import read_manifest
from fd_scale.errors import BadInput


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


def make_tar(path: Path, folder: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(folder, arcname=".")
    return path


def make_zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in reversed(names(folder)):
            opened.write(folder / name, name)
    return path


def make_csv(path: Path, folder: Path, absolute: bool = False) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label"])
        for name in names(folder):
            where = folder / name if absolute else os.path.relpath(folder / name, path.parent)
            writer.writerow([7, where, os.path.dirname(name)])
    return path


def make_parquet(path: Path, folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    found = names(folder)
    table = {
        "image": [os.path.relpath(folder / name, path.parent) for name in found],
        "class": [name[:7] for name in found],
    }
    parquet.write_table(pyarrow.table(table), path)
    return path


def make_tar_of_tars(path: Path, folder: Path) -> Path:
    """As ILSVRC2012_img_train.tar: one tar for each class."""
    with tarfile.open(path, "w") as outer:
        for name in ("class_0", "class_1"):
            inner = make_tar(path.with_name(f"{name}.tar"), folder / name)
            outer.add(inner, arcname=inner.name)
            inner.unlink()
    return path


def make_folder_of_archives(path: Path, folder: Path) -> Path:
    path.mkdir()
    make_tar(path / "class_0.tar.gz", folder / "class_0", "w:gz")
    make_zip(path / "class_1.zip", folder / "class_1")
    return path


MAKE = {
    "a.tar": make_tar,
    "a.tar.gz": lambda path, folder: make_tar(path, folder, "w:gz"),
    "a.tgz": lambda path, folder: make_tar(path, folder, "w:gz"),
    "a.tar.bz2": lambda path, folder: make_tar(path, folder, "w:bz2"),
    "a.tar.xz": lambda path, folder: make_tar(path, folder, "w:xz"),
    "a.zip": make_zip,
    "a.csv": make_csv,
    "b.CSV": lambda path, folder: make_csv(path, folder, absolute=True),
    "a.parquet": make_parquet,
    "nested.tar": make_tar_of_tars,
    "archives": make_folder_of_archives,
}


def contents(folder: Path) -> list[tuple[bytes, str, int]]:
    """(image, class, label) of every sample, in the order of the shards."""
    found = []
    for shard in read_manifest(folder).shards:
        with tarfile.open(folder / shard.name) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in sorted(members):
            if name.endswith(".json"):
                facts = json.loads(members[name])
                found.append((members[name[:-5] + ".jpg"], facts.get("class"), facts.get("label")))
    return found


@pytest.mark.parametrize("name", MAKE)
def test_the_same_images_from_any_source(name, image_folder, shards, tmp_path):
    source = MAKE[name](tmp_path / name, image_folder)
    manifest = pack(source, tmp_path / "out", shard_samples=20)
    assert manifest.source["images"] == 48
    assert contents(tmp_path / "out") == contents(shards)
    assert manifest.classes == read_manifest(shards).classes
    assert len(ShardReader(tmp_path / "out")) == 48
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name, "out"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.zip"])
def test_a_folder_and_its_archive_give_the_same_shards_byte_for_byte(name, image_folder, shards, tmp_path):
    pack(MAKE[name](tmp_path / name, image_folder), tmp_path / "out", shard_samples=20)
    assert {path.name: path.read_bytes() for path in shards.iterdir() if path.suffix != ".json"} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".json"
    }


def test_a_flat_folder_and_a_list_without_labels_have_no_classes(image_folder, tmp_path):
    manifest = pack(image_folder / "class_0", tmp_path / "flat")
    assert (manifest.samples, manifest.classes) == (24, ())
    listed = "\n".join(["path", *(str(image_folder / name) for name in names(image_folder))])
    (tmp_path / "list.csv").write_text(listed)
    manifest = pack(tmp_path / "list.csv", tmp_path / "listed")
    assert (manifest.samples, manifest.classes) == (48, ())
    with tarfile.open(tmp_path / "listed" / "shard-000000.tar") as tar:
        facts = json.load(tar.extractfile("000000000.json"))
    assert set(facts) == {"origin", "sha256"}
    assert not facts["origin"].startswith("/")


def test_numbers_of_classes(image_folder, tmp_path):
    """By value where they are numbers, then by code point; the same from folders and lists."""
    one, two = names(image_folder)[:2]
    source = tmp_path / "source"
    for folder in ("10", "9", "b/deeper"):
        (source / folder).mkdir(parents=True)
        (source / folder / "1.jpg").write_bytes((image_folder / one).read_bytes())
    assert [entry[:2] for entry in pack(source, tmp_path / "a").classes] == [("9", 0), ("10", 1), ("b", 2)]
    (tmp_path / "list.csv").write_text(f"path,label\n{image_folder / one},10\n{image_folder / two},9\n")
    assert [entry[:2] for entry in pack(tmp_path / "list.csv", tmp_path / "b").classes] == [("9", 0), ("10", 1)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_webdataset_shards_keep_their_labels_and_lose_their_masks(image_folder, tmp_path):
    source = tmp_path / "wds"
    source.mkdir()
    images = [(image_folder / name).read_bytes() for name in names(image_folder)]
    for shard in range(2):
        with tarfile.open(source / f"{shard:05d}.tar", "w") as tar:
            for number in range(3):
                key = f"./x.y/{shard}{number}"
                add(tar, f"{key}.cls", str(40 + number).encode())
                add(tar, f"{key}.jpg", images[number])
                add(tar, f"{key}.seg.png", b"no picture")
                add(tar, f"{key}.txt", b"a caption")
    manifest = pack(source, tmp_path / "out")
    assert manifest.samples == 6
    assert manifest.classes == (("40", 0, 2), ("41", 1, 2), ("42", 2, 2))


def test_our_own_shards_packed_again_keep_classes(shards, tmp_path):
    manifest = pack(shards, tmp_path / "out")
    assert manifest.classes == read_manifest(shards).classes
    assert sorted(image for image, *_ in contents(tmp_path / "out")) == sorted(image for image, *_ in contents(shards))


def test_hidden_files_are_passed_over_and_links_to_folders_followed(image_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "class_0").symlink_to(image_folder / "class_0")
    (source / "class_0_again").symlink_to(image_folder / "class_0")
    (source / "loop").symlink_to(source)
    (source / "._1.jpg").write_text("what macOS leaves beside a picture")
    assert pack(source, tmp_path / "out").samples == 48
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as opened:
        opened.write(image_folder / names(image_folder)[0], "1.jpg")
        opened.writestr("__MACOSX/._1.jpg", b"")
    assert pack(tmp_path / "mac.zip", tmp_path / "mac").samples == 1


def test_a_name_without_an_image_ending_gets_one(image_folder, tmp_path):
    (tmp_path / "download").write_bytes((image_folder / names(image_folder)[0]).read_bytes())
    (tmp_path / "list.csv").write_text("file\ndownload\n")
    pack(tmp_path / "list.csv", tmp_path / "out")
    assert ShardReader(tmp_path / "out")[0].id == "shard-000000.tar/000000000.jpg"


def test_parquet_without_pyarrow_says_what_to_install(image_folder, tmp_path, monkeypatch):
    make_parquet(tmp_path / "a.parquet", image_folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(BadInput, match=r"needs pyarrow; pip install 'fd-scale\[parquet\]'"):
        pack(tmp_path / "a.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"", "has no column path or image or file but none"),
        ("a.csv", b"name,label\nx,1\n", "but name, label; name one so"),
        ("a.csv", b"path\n\xff\xfe\n", "is not a CSV list"),
        ("a.csv", b"path,label\n,1\n", "row 1 holds '' instead of a path"),
        ("a.csv", b"path\npipe:touch harm\n", "row 1 is a URL, 'pipe:touch harm'"),
        ("a.csv", b"path\nhttp://example.org/a.jpg\n", "row 1 is a URL"),
        ("a.csv", b"path\nnowhere.jpg\n", "nowhere.jpg cannot be read: no such file"),
        ("a.csv", b"path\n/dev/zero\n", "/dev/zero cannot be read: no such file"),
        ("a.csv", b"path\n", "no images in"),
        ("a.parquet", b"PAR1 and more", "is not a Parquet list"),
        ("a.tar", b"", "is damaged or no such archive"),
        ("a.tar", b"words" * 500, "is damaged or no such archive"),
        ("a.tar.gz", b"\x1f\x8bwords", "is damaged or no such archive"),
        ("a.zip", b"words", "is damaged or no such archive"),
        ("a.rar", b"words", "is not a folder, nor an archive or a list of a known kind"),
    ],
)
def test_a_bad_source_is_refused_in_one_line_and_leaves_nothing(name, content, line, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as raised:
        pack(tmp_path / name, tmp_path / "out")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("cut", [512, 700, 3000, -12000])
def test_a_tar_that_was_cut_off_is_refused(cut, image_folder, tmp_path):
    whole = make_tar(tmp_path / "a.tar", image_folder).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(BadInput):
        pack(tmp_path / "a.tar", tmp_path / "out")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(image_folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in names(image_folder):
            tar.add(image_folder / name, arcname=name)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    middle = content.index(b"/024.jpg")
    content[middle] = ord("?")
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadInput, match="damaged header at byte"):
        pack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("source", ["pipe:touch harm", "http://example.org/a.tar", "s3://bucket/a.tar"])
def test_urls_are_refused_and_nothing_is_run(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="is a URL; pack reads local files only and runs no command"):
        pack(Path(source), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
