"""What a sample is: webdataset says so, and `pack` and `index` hear it alike. What is left out is counted."""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import webdataset
from data.older import of_format_1
from PIL import Image

from fd_scale.data.left_out import LeftOut
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.data.tars import group_samples, plain_members, tar_members
from fd_scale.errors import BadInput


def jpeg(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (number % 256, 90, 50)).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], **facts) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for fact, value in facts.get(name, {}).items():
                setattr(member, fact, value)
            tar.addfile(member, io.BytesIO(content))
    return path


def pictures(*names: str) -> list[tuple[str, bytes]]:
    return [(name, jpeg(number) if "jpg" in name.lower() else b"0") for number, name in enumerate(names)]


def noted(errors: list[Exception], error: Exception) -> bool:
    errors.append(error)
    return True


HOSTILE = ["a/", "b.c/", "__x__/", "", "./"]
STEMS = ["1", "img 2.0", "x", "__key", "__meta__", "é\n"]
ENDINGS = [".jpg", ".JPG", ".cls", ".seg.png", "", "."]


def test_samples_are_those_that_webdataset_reads(tmp_path):
    """Of any names: the same keys, the same members, in the same order; where it stops, the sample is marked."""
    random = np.random.default_rng(0)
    for trial in range(60):
        names = ["".join(random.choice(part) for part in (HOSTILE, STEMS, ENDINGS)) for _ in range(8)]
        if trial % 2:
            names = list(dict.fromkeys(name.lower() for name in names))
        path = write(tmp_path / "a.tar", [(name or "x", str(i).encode()) for i, name in enumerate(names)])
        with open(path, "rb") as file:
            found = list(group_samples(plain_members(tar_members(file), LeftOut()), LeftOut()))
        content = path.read_bytes()
        ours = [{e: content[m.offset : m.offset + m.size] for e, m in sample.members} for sample in found]
        stops: list[Exception] = []
        opened = webdataset.tariterators.tar_file_expander([{"url": "x", "stream": io.BytesIO(content)}])
        theirs = webdataset.tariterators.group_by_keys(opened, handler=partial(noted, stops))
        assert ours == [{e: c for e, c in sample.items() if not e.startswith("__")} for sample in theirs]
        assert any(sample.repeated for sample in found) == bool(stops)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["img 2.0.jpg", "img 2.0.cls", "img 2.1.jpg", "img 2.1.cls"],
            "0 images instead of one; a key ends at the first",
        ),
        (["1.jpg", "1.cls", "1.jpg", "1.cls"], "two members of one name"),
        (["1.jpg", "1.cls", "1.JPG"], "two members of one name"),
        (["1.jpg", "2.jpg", "1.cls", "2.cls"], "0 images instead of one"),
        (["1.jpg", "2.jpg", "1.json", "2.json"], "(its .json|0 images)"),
        (["1.jpg", "1.png", "1.cls"], "2 images instead of one"),
        (["img 2.0.jpg", "img 2.0.json"], "0 images instead of one"),
    ],
)
def test_what_index_refuses_pack_refuses_too(names, reason, tmp_path):
    path = write(tmp_path / "wds/a.tar", pictures(*names))
    with pytest.raises(BadInput, match=reason):
        index(tmp_path / "wds")
    for source in (path, tmp_path / "wds"):
        with pytest.raises(BadInput, match=reason):
            pack(source, tmp_path / "out")


@pytest.mark.parametrize("ending", ["__key__", "__bad__", "__URL__"])
def test_an_ending_that_webdataset_keeps_for_itself_is_refused(ending, tmp_path):
    path = write(tmp_path / "wds/a.tar", pictures("1.jpg", "1.cls", f"1.{ending}"))
    for run in (lambda: index(tmp_path / "wds"), lambda: pack(path, tmp_path / "out")):
        with pytest.raises(BadInput, match=r"means something else to webdataset; rename it"):
            run()


def test_a_hidden_member_does_not_split_its_sample(tmp_path, capsys):
    names = ["cat/1.jpg", "cat/._1.jpg", "cat/1.cls", ".x/2.jpg", ".x/2.cls"]
    path = write(tmp_path / "wds/a.tar", pictures(*names))
    for run in (lambda: pack(path, tmp_path / "out"), lambda: index(tmp_path / "wds")):
        manifest = run()
        assert (manifest.samples, manifest.classes) == (1, (("0", 0, 1),))
        assert "left out 2 hidden files and folders" in capsys.readouterr().err
    assert verify(tmp_path / "wds") == []


def test_an_index_of_before_that_lists_hidden_folders_is_still_whole(tmp_path):
    write(tmp_path / "wds/a.tar", pictures("1.jpg", ".x/2.jpg"))
    index(tmp_path / "wds")
    idx = tmp_path / "wds/a.idx"
    with tarfile.open(tmp_path / "wds/a.tar") as tar:
        hidden = tar.getmember(".x/2.jpg")
    first = idx.read_text().splitlines()[1]
    idx.write_text(f"v1.2 2\n{first}\njpg {hidden.offset_data} {hidden.size} .x/2.jpg\n")
    with of_format_1(tmp_path / "wds") as content:
        content["samples"] = content["shards"][0]["samples"] = 2
    assert verify(tmp_path / "wds") == []
    assert ShardReader(tmp_path / "wds")[1].content == jpeg(1)


def test_a_sample_of_two_classes_is_refused(tmp_path):
    path = write(tmp_path / "wds/a.tar", [("1.jpg", jpeg()), ("1.cls", b"3"), ("1.json", b'{"class": "cat"}')])
    for run in (lambda: index(tmp_path / "wds"), lambda: pack(path, tmp_path / "out")):
        with pytest.raises(BadInput, match="it names two classes, 3 and cat"):
            run()
    write(path, [("1.jpg", jpeg()), ("1.cls", b"3"), ("1.json", b'{"label": 3}')])
    assert index(tmp_path / "wds").classes == (("3", 0, 1),)


def test_a_tar_of_class_folders_stays_one_beside_files_of_other_kinds(tmp_path, capsys):
    names = ["cat/1.jpg", "cat/1.jpg.json", "dog/2.jpg", "readme.json", "dog/2.txt", "__x__/3.jpg"]
    manifest = pack(write(tmp_path / "a.tar", pictures(*names)), tmp_path / "out")
    assert [entry.name for entry in manifest.classes] == ["__x__", "cat", "dog"]
    assert "a.tar: left out 3 other files (.json 2, .txt 1)" in capsys.readouterr().err


def test_descriptions_without_a_class_leave_the_folders_of_a_tar_their_word(tmp_path, capsys):
    members = [(n, jpeg() if n.endswith("jpg") else b'{"caption": "x"}') for n in ("a/1.jpg", "a/1.json", "b/2.jpg")]
    assert [entry.name for entry in pack(write(tmp_path / "a.tar", members), tmp_path / "out").classes] == ["a", "b"]
    assert "1 descriptions (.cls, .json) that name no class" in capsys.readouterr().err


def test_a_readme_in_a_shard_is_no_sample(tmp_path, capsys):
    members = [("README.md", b"x"), ("info.json", b'{"about": 1}'), ("1.jpg", jpeg()), ("1.cls", b"3")]
    path = write(tmp_path / "a.tar", members)
    assert pack(path, tmp_path / "out").classes == (("3", 0, 1),)
    assert "2 other files (.json 1, .md 1)" in capsys.readouterr().err
    write(path, [*members, ("2.json", b'{"label": 4}')])
    with pytest.raises(BadInput, match=r"2\.json cannot be read: 0 images instead of one"):
        pack(path, tmp_path / "again")


def test_shards_without_labels_are_no_classes(tmp_path):
    for name in ("0", "1"):
        write(tmp_path / f"wds/{name}.tar", [("1.jpg", jpeg()), ("1.json", b'{"caption": "x"}')])
    assert pack(tmp_path / "wds", tmp_path / "out").classes == ()


def test_links_and_sparse_members_of_shards_are_counted(tmp_path, capsys):
    members = pictures("1.jpg", "1.cls", "2.txt", "3.txt")
    facts = {"2.txt": {"type": tarfile.SYMTYPE, "linkname": "1.jpg", "size": 0}}
    facts["3.txt"] = {"pax_headers": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}}
    path = write(tmp_path / "wds/a.tar", members, **facts)
    assert index(tmp_path / "wds").samples == 1
    assert "wds: left out 2 links, devices and sparse files\n" in capsys.readouterr().err
    pack(path, tmp_path / "out")
    assert "a.tar: left out 2 links, devices and sparse files\n" in capsys.readouterr().err


def test_one_image_beside_class_folders_takes_their_classes_and_says_so(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir()
        (tmp_path / "in" / name / "1.jpg").write_bytes(jpeg())
    (tmp_path / "in/preview.jpg").write_bytes(jpeg())
    assert pack(tmp_path / "in", tmp_path / "out").classes == ()
    line = "no classes: 1 images, preview.jpg first, lie beside the class folders (2: cat, dog)"
    assert capsys.readouterr().err.startswith(line)
    (tmp_path / "in/preview.jpg").unlink()
    (tmp_path / "in/dog/1.jpg").unlink()
    assert pack(tmp_path / "in", tmp_path / "one").classes == ()
    assert capsys.readouterr().err == "no classes: all images lie in one folder, cat; a list can label them\n"


def test_files_of_other_kinds_are_counted_and_jpeg_by_its_other_names_is_read(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jfif", "b.JPE", "c.gif", "d.heic", "e.heic", "f.txt", "g", "h.tar"):
        (folder / name).write_bytes(jpeg())
    (folder / "broken.jpg").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    assert pack(folder, tmp_path / "out").samples == 2
    assert capsys.readouterr().err == (
        "in: left out 3 images of formats that are not read (.heic 2, .gif 1); 1 links to folders that they lie in; "
        "1 links, devices and sparse files; 3 other files (.tar 1, .txt 1, no ending 1)\n"
    )
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"jpg", "json"}


def test_headers_in_capitals_or_with_blanks_count_and_other_columns_are_named(tmp_path, capsys):
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg())
    (tmp_path / "a.csv").write_text("ID,Path, Label\n7,1.jpg, cat\n8,2.jpg,\n")
    assert pack(tmp_path / "a.csv", tmp_path / "out").classes == (("cat", 0, 1),)
    assert capsys.readouterr().err == "a.csv: left out 1 columns: ID\n1 of 2 images have no label\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,label\na,b.jpg,cat\n", "row 1 has 3 fields and the header 2; put a field that holds a comma in quotes"),
        ("path,label\n1.jpg\n", "row 1 has 1 fields and the header 2"),
        ("path,label,Label\n1.jpg,a,b\n", "has 2 columns called label"),
    ],
)
def test_a_list_that_can_be_read_in_two_ways_is_refused(text, line, tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadInput, match=line):
        pack(tmp_path / "a.csv", tmp_path / "out")


def test_what_is_left_out_as_bad_is_said(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(jpeg())
    (folder / "bad.jpg").write_bytes(b"")
    pack(folder, tmp_path / "out", skip_bad=True)
    assert capsys.readouterr().err == f"left out 1 samples that cannot be used: {tmp_path}/out/skipped.txt\n"
