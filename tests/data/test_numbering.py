"""Classes are the same, and so are their numbers, in folders, zips, tars, lists and shards; splits are none."""

import csv
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data.older import of_format_1
from PIL import Image

from fd_scale.cli import main
from fd_scale.data.item import OddLabel, check_label, clean_name, hidden_part, label_name, strict_label
from fd_scale.data.numbering import class_names, class_numbers
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.reader import ShardReader
from fd_scale.errors import BadInput


def jpeg(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (number % 256, number * 7 % 256, 50)).save(file, "JPEG")
    return file.getvalue()


def write_folder(where: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(where), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(jpeg(number) if name.endswith(".jpg") else b"x")
    return where


def write_tar(path: Path, names: list[str], contents: list[bytes] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            content = contents[number] if contents else jpeg(number) if name.endswith(".jpg") else b"x"
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for number, name in enumerate(names):
            opened.writestr(zipfile.ZipInfo(name), jpeg(number) if name.endswith(".jpg") else b"x")
    return path


KINDS = {"folder": write_folder, "a.tar": write_tar, "a.zip": write_zip}


def table(manifest) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.label, entry.samples) for entry in manifest.classes}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_and_folders_are_no_classes_anywhere(kind, tmp_path, capsys):
    names = [
        "cat/1.jpg",
        "dog/2.jpg",
        ".ipynb_checkpoints/1.jpg",
        ".ipynb_checkpoints/deep/2.jpg",
        "cat/._1.jpg",
        "data\\cat\\._1.jpg",
        "dog/.cache/x/y.jpg",
    ]
    manifest = pack(KINDS[kind](tmp_path / kind, names), tmp_path / "out")
    assert table(manifest) == {"cat": (0, 1), "dog": (1, 1)}
    assert capsys.readouterr().err == f"{kind}: left out 4 hidden files and folders\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_backslash_separates_folders_everywhere(kind, tmp_path):
    manifest = pack(KINDS[kind](tmp_path / kind, ["data\\cat\\1.jpg", "data\\dog\\2.jpg"]), tmp_path / "out")
    assert table(manifest) == {"cat": (0, 1), "dog": (1, 1)}


GBK = ["马", "狗", "鸟"]


@pytest.mark.parametrize("kind", ["folder", "a.tar"])
def test_classes_whose_names_are_not_utf8_stay_apart(kind, tmp_path):
    names = [f"{os.fsdecode(name.encode('gbk'))}/{number}.jpg" for number, name in enumerate(GBK)]
    manifest = pack(KINDS[kind](tmp_path / kind, names), tmp_path / "out")
    shown = ["".join(f"%{byte:02X}" for byte in name.encode("gbk")) for name in GBK]
    assert [entry.name for entry in manifest.classes] == sorted(shown)
    reader = ShardReader(tmp_path / "out")
    assert sorted(reader.label(number) for number in range(3)) == [0, 1, 2]


def test_a_zip_without_a_word_about_its_encoding_names_classes_as_a_folder_does(tmp_path):
    names = ["chât", os.fsdecode("狗".encode("gbk"))]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for number, name in enumerate(names):
            raw = os.fsencode(name)
            opened.writestr("x" * len(raw) + "/1.jpg", jpeg(number))
    content = path.read_bytes()  # without the flag that promises UTF-8, since these names are ASCII
    for name in names:
        raw = os.fsencode(name)
        content = content.replace(b"x" * len(raw) + b"/", raw + b"/")
    path.write_bytes(content)
    assert [entry.name for entry in pack(path, tmp_path / "out").classes] == ["%B9%B7", "chât"]


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_would_become_one_are_refused_by_both_names(kind, tmp_path):
    source = KINDS[kind](tmp_path / kind, ["a\x01/1.jpg", "a\x02/2.jpg"])
    with pytest.raises(BadInput, match=r"'a\\x01' and 'a\\x02' would both become the class a\?; rename one"):
        pack(source, tmp_path / "out")


def test_archives_of_one_name_are_not_one_class(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("cat.tar", "cat.zip", "dog.tar"):
        (write_zip if name.endswith("zip") else write_tar)(tmp_path / "in" / name, ["1.jpg"])
    with pytest.raises(BadInput, match=r"'cat.tar' and 'cat.zip' would both become the class cat"):
        pack(tmp_path / "in", tmp_path / "out")


def numbers(*names: str) -> dict[str, int]:
    return class_numbers({name: f"x/{name}" for name in names})


def test_numbers_by_value_then_words_by_code_point():
    assert list(numbers("10", "9", "b", "B", "100", "-", "é")) == ["9", "10", "100", "-", "B", "b", "é"]
    assert numbers("3", "7", "9") == {"3": 0, "7": 1, "9": 2}
    assert numbers("01", "2", "10") == {"01": 0, "2": 1, "10": 2}
    assert numbers("1" * 6000, "2") == {"2": 0, "1" * 6000: 1}
    with pytest.raises(BadInput, match=r"the classes 01 \(of x/01\) and 1 \(of x/1\) have names of one value"):
        numbers("1", "01", "2")
    with pytest.raises(BadInput, match="would both become"):
        class_names({"a/b", "a//b"}, Path("here"))


def test_one_numbering_for_folder_tar_list_and_shards(tmp_path):
    labels = ["3", "7", "10", "x"]
    names = [f"{label}/{number}.jpg" for number, label in enumerate(labels)]
    folder = write_folder(tmp_path / "folder", names)
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *[[f"folder/{name}", name.split("/")[0]] for name in names]])
    (tmp_path / "shards").mkdir()
    members = [(f"{number}.{ext}", number, label) for number, label in enumerate(labels) for ext in ("jpg", "cls")]
    contents = [jpeg(number) if name.endswith("jpg") else label.encode() for name, number, label in members]
    write_tar(tmp_path / "shards" / "a.tar", [name for name, *_ in members], contents)
    sources = [folder, tmp_path / "list.csv", write_tar(tmp_path / "b.tar", names), tmp_path / "shards"]
    found = [pack(source, tmp_path / f"out{number}") for number, source in enumerate(sources)]
    found.append(index(tmp_path / "shards"))
    assert [table(manifest) for manifest in found] == [{"3": (0, 1), "7": (1, 1), "10": (2, 1), "x": (3, 1)}] * 5


@pytest.mark.parametrize("label", ["-1", "3.0", "nan", "NaN", "1e3", "+3", "-inf", ".5", "3 ", "\t3"])
def test_what_a_program_writes_for_no_class_is_no_class(label):
    with pytest.raises(OddLabel, match="name it by a whole number from 0 on or by a word"):
        check_label(label)


def test_labels_beside_images():
    assert strict_label(b"7\n", plain=True) == strict_label(b'"7"', plain=True) == "7"
    assert strict_label(b'{"class": null, "label": 7}', plain=False) == "7"
    assert strict_label(b'{"label": ["a", "b"], "caption": "x"}', plain=False) == ""
    assert strict_label(b"001", plain=True) == "001"
    for content, plain in [
        (b"3.0", True),
        (b"[1, 2]", True),
        (b"true", True),
        (b'{"label": -1}', False),
        (b"{", False),
    ]:
        with pytest.raises(OddLabel):
            strict_label(content, plain=plain)
    with pytest.raises(OddLabel, match="not UTF-8"):
        strict_label(b"\xb9\xb7", plain=True)


def test_data_sets_that_are_packed_already_keep_their_labels():
    assert [label_name(text, plain=True) for text in (b"-1", b"01", b"3.0", b"a//b")] == ["-1", "01", "", "a/b"]


@pytest.mark.parametrize("label", ["-1", "3.0", "nan"])
def test_an_odd_label_is_refused_by_row_and_by_sample(label, tmp_path):
    write_folder(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "a.csv").write_text(f"path,label\n1.jpg,0\n2.jpg,{label}\n")
    with pytest.raises(BadInput, match=rf"a.csv: row 2, 2.jpg: its class is {label}; name it by"):
        pack(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "wds").mkdir()
    members = ["1.jpg", "1.cls", "2.jpg", "2.cls"]
    write_tar(tmp_path / "wds/a.tar", members, [jpeg(), b"0", jpeg(1), label.encode()])
    with pytest.raises(BadInput, match=r"a.tar: a.tar/2.jpg cannot be read: its class is"):
        pack(tmp_path / "wds", tmp_path / "out")
    with pytest.raises(BadInput, match=r"a.tar: sample 2.jpg: its class is"):
        index(tmp_path / "wds")
    assert pack(tmp_path / "wds", tmp_path / "out", skip_bad=True).classes == (("0", 0, 1),)
    assert index(tmp_path / "wds", skip_bad=True).classes == (("0", 0, 1),)


def test_a_parquet_column_of_floats_is_refused_by_row(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_folder(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    for column, wanted in (([3, None, 3], [("3", 0, 2)]), ([3.0, 4.0, None], None), ([True, False, True], None)):
        rows = {"PATH": ["1.jpg", "2.jpg", "3.jpg"], " Label": column}
        parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
        if wanted is None:
            with pytest.raises(BadInput, match=r"row 1, 1.jpg: its class is (3.0|True); name it by"):
                pack(tmp_path / "a.parquet", tmp_path / "no")
        else:
            assert list(pack(tmp_path / "a.parquet", tmp_path / "out").classes) == wanted


def test_a_label_of_a_list_is_read_again_as_it_was_packed(tmp_path):
    write_folder(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "a.csv").write_text("path,label\n1.jpg,big\\cat\n2.jpg,/dog\n")
    assert table(pack(tmp_path / "a.csv", tmp_path / "out")) == {"big/cat": (0, 1), "dog": (1, 1)}
    reader = ShardReader(tmp_path / "out")
    assert {reader.label(0), reader.label(1)} == {0, 1}


SPLIT = ["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_not_classes(kind, tmp_path):
    source = KINDS[kind](tmp_path / kind, SPLIT)
    with pytest.raises(
        BadInput, match=r"are splits, train, val, and no classes; take one with --only train, or"
    ) as told:
        pack(source, tmp_path / "out")
    assert "--force" in str(told.value)
    assert not (tmp_path / "out").exists()
    assert table(pack(source, tmp_path / "val", only="val")) == {"cat": (0, 1), "dog": (1, 1)}
    assert table(pack(source, tmp_path / "both", force=True)) == {"train": (0, 2), "val": (1, 2)}
    with pytest.raises(
        BadInput, match=r"--only valid: no such folder among the first ones of .*, which are train, val"
    ):
        pack(source, tmp_path / "none", only="valid")


@pytest.mark.parametrize("names", [["TEST/1.jpg", "Validation/2.jpg"], ["a.jpg", "train/cat/1.jpg", "test/cat/2.jpg"]])
def test_splits_by_any_of_their_names_and_beside_images(names, tmp_path):
    with pytest.raises(BadInput, match="are splits"):
        pack(write_folder(tmp_path / "in", names), tmp_path / "out")


def test_splits_of_shards_and_lists_are_not_mixed_either(tmp_path):
    (tmp_path / "wds").mkdir()
    for split in ("train", "val"):
        write_tar(tmp_path / f"wds/{split}.tar", ["1.jpg", "1.cls"], [jpeg(), b"3"])
    with pytest.raises(BadInput, match="--only train"):
        pack(tmp_path / "wds", tmp_path / "out")
    assert table(pack(tmp_path / "wds", tmp_path / "out", only="train")) == {"3": (0, 1)}
    write_folder(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "a.csv").write_text("path,class\n1.jpg,train\n2.jpg,val\n")
    with pytest.raises(BadInput, match=r"the labels of .* are splits"):
        pack(tmp_path / "a.csv", tmp_path / "no")


def test_the_summary_names_the_first_classes(tmp_path, capsys):
    source = write_folder(tmp_path / "in", [f"{name}/1.jpg" for name in ("d", "b", "a", "c")])
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(source), str(tmp_path / "out"), "--workers", "1"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out == f"4 images of 4 classes (a, b, c, ...) in 1 shards: {tmp_path}/out\n"


def test_cleaning_twice_is_cleaning_once():
    for name in ("a\\b/../c", "\udcb9\udcb7/x", "a\x00b", "%B9", "", "..", "/"):
        assert clean_name(clean_name(name)) == clean_name(name)
    assert json.loads(json.dumps(clean_name("\udcb9"))) == "%B9"
    assert hidden_part("./a/../.b/c.jpg") == "a/.b"
    assert hidden_part("../a./b.jpg") is None


def test_a_data_set_that_was_described_with_other_numbers_keeps_them(tmp_path):
    write_tar(tmp_path / "a.tar", ["1.jpg", "1.cls", "2.jpg", "2.cls"], [jpeg(), b"3", jpeg(1), b"7"])
    index(tmp_path)
    with of_format_1(tmp_path) as content:
        content["classes"][0]["label"], content["classes"][1]["label"] = 3, 7
    assert [ShardReader(tmp_path).label(number) for number in range(2)] == [3, 7]


def test_shards_that_an_earlier_version_began_are_begun_again(tmp_path, capsys):
    names = [f"{name}/1.jpg" for name in ("10", "9", "x")]
    source = write_folder(tmp_path / "in", names)
    (source / names[np.random.default_rng(0).permutation(3)[-1]]).write_bytes(b"")  # of the last shard
    with pytest.raises(BadInput, match="does not decode"):
        pack(source, tmp_path / "out", shard_samples=1)
    plan = tmp_path / ".out.partial/plan.json"
    begun = json.loads(plan.read_text())
    del begun["rules"]
    plan.write_text(json.dumps(begun))
    capsys.readouterr()
    assert pack(source, tmp_path / "out", shard_samples=1, skip_bad=True).samples == 2
    assert "is of another source or other options; starting anew" in capsys.readouterr().err
