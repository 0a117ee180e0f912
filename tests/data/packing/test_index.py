"""Shards of other programs, described where they lie."""

import io
import tarfile
from pathlib import Path

import pytest
import webdataset

from fd_scale.data.packing.index import index
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.errors import BadInput


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def foreign(image_folder, tmp_path) -> Path:
    """As `tar` and webdataset's writers make them: folders, capitals, blanks, captions, one shard in pax format."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    images = [path.read_bytes() for path in sorted(image_folder.rglob("*.jpg"))]
    for shard in range(3):
        style = tarfile.PAX_FORMAT if shard == 1 else tarfile.GNU_FORMAT
        with tarfile.open(folder / f"part.{shard}.tar", "w", format=style) as tar:
            for number in range(5):
                key = f"./train {shard}/{'ü' * 60 if number == 3 else 'x.y'}/img_{number}"
                add(tar, f"{key}.JPEG", images[5 * shard + number])
                add(tar, f"{key}.cls", str(number % 2 + 3).encode())
                add(tar, f"{key}.txt", b"a caption")
    return folder


def bytes_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def test_every_image_is_reached_and_no_tar_is_touched(foreign):
    before = bytes_of(foreign, "*.tar")
    manifest = index(foreign)
    assert bytes_of(foreign, "*.tar") == before
    assert (manifest.samples, manifest.seed, manifest.classes) == (15, None, (("3", 0, 9), ("4", 1, 6)))
    reader = ShardReader(foreign)
    tars = sorted(map(str, foreign.glob("*.tar")))
    plain = [sample["jpeg"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    assert [reader[i].content for i in range(len(reader))] == plain
    assert verify(foreign) == []
    assert not (foreign / ".index.partial").exists()


def test_workers_change_nothing(foreign, tmp_path):
    index(foreign, workers=2)
    found = bytes_of(foreign, "*.idx") | bytes_of(foreign, "manifest.json")
    for path in [*foreign.glob("*.idx"), foreign / "manifest.json"]:
        path.unlink()
    index(foreign, workers=1)
    assert bytes_of(foreign, "*.idx") | bytes_of(foreign, "manifest.json") == found


def test_a_described_folder_is_not_described_over(foreign):
    index(foreign)
    with pytest.raises(BadInput, match=r"has a manifest.json already"):
        index(foreign)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.jpg", b"no picture")], "sample 1.jpg: not an image"),
        ([("1.txt", b"words")], "sample 1.txt: 0 images instead of one"),
        ([("1.jpg", None), ("1.png", None)], "2 images instead of one"),
        ([("1.jpg", None), ("1.jpg", None)], "two members of one name"),
    ],
)
def test_a_bad_sample_is_refused_by_name_or_left_out(members, reason, foreign, image_folder):
    image = next(image_folder.rglob("*.jpg")).read_bytes()
    with tarfile.open(foreign / "zzz.tar", "w") as tar:
        for name, content in members:
            add(tar, name, content or image)
        add(tar, "2.jpg", image)
    with pytest.raises(BadInput, match=reason):
        index(foreign)
    assert not (foreign / "manifest.json").exists()
    manifest = index(foreign, skip_bad=True)
    assert (manifest.samples, manifest.skipped) == (16, 1)
    assert len(ShardReader(foreign)) == 16
    assert (foreign / "skipped.txt").read_text().startswith("zzz.tar/1.")
    assert verify(foreign) == []


def test_what_is_no_folder_of_whole_tars_is_refused(foreign, tmp_path):
    with pytest.raises(BadInput, match=r"is not a folder with .tar files"):
        index(tmp_path)
    with pytest.raises(BadInput, match=r"is not a folder with .tar files"):
        index(tmp_path / "nowhere")
    torn = foreign / "part.1.tar"
    torn.write_bytes(torn.read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"part.1.tar is damaged"):
        index(foreign)


def test_a_name_cannot_write_lines_into_the_index(image_folder, tmp_path):
    image = next(image_folder.rglob("*.jpg")).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1\njpg 0 99 x.jpg", image)
        add(tar, "2 jpg 0 99 y.jpg", image)
    assert index(tmp_path).samples == 2
    assert [ShardReader(tmp_path)[i].content for i in range(2)] == [image, image]
