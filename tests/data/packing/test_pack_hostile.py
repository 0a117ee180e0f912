"""Archives made to hurt: nothing is written or read outside, nothing in them is run, memory stays bounded."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from fd_scale.data.item import clean_name
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.errors import BadInput


def jpeg(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **facts) -> None:
    member = tarfile.TarInfo(name)
    for fact, value in {"size": len(content), **facts}.items():
        setattr(member, fact, value)
    tar.addfile(member, io.BytesIO(content))


def origins(out: Path) -> list[str]:
    shards = sorted(map(str, out.glob("*.tar")))
    return sorted(json.loads(sample["json"])["origin"] for sample in webdataset.WebDataset(shards, shardshuffle=False))


def member_names(tar: Path) -> list[str]:
    with tarfile.open(tar) as opened:
        return opened.getnames()


ESCAPES = [
    "../../escaped.jpg",
    "/absolute.jpg",
    "a/../../b.jpg",
    "w\\..\\..\\windows.jpg",
    "C:\\x.jpg",
    "a\nb\x1b[31m.jpg",
]
HARMLESS = ["C:/x.jpg", "a/b.jpg", "a?b?[31m.jpg", "absolute.jpg", "escaped.jpg", "w/windows.jpg"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_outside_are_only_names(kind, tmp_path):
    archive = tmp_path / f"in/hostile.{kind}"
    archive.parent.mkdir()
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for number, name in enumerate(ESCAPES):
                add(tar, name, jpeg(number))
    else:
        with zipfile.ZipFile(archive, "w") as opened:
            for number, name in enumerate(ESCAPES):
                opened.writestr(name, jpeg(number))
    pack(archive, tmp_path / "below/out")
    assert origins(tmp_path / "below/out") == HARMLESS
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    shard = "below/out/shard-000000"
    assert everything == {f"in/hostile.{kind}", f"{shard}.tar", f"{shard}.idx", "below/out/manifest.json"}
    assert all(name == clean_name(name) and "/" not in name for name in member_names(tmp_path / f"{shard}.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_regular_members_are_read(kind, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "good.jpg", jpeg())
        add(tar, "link.jpg", type=kind, linkname="/etc/passwd", devmajor=1, devminor=5)
    with pytest.raises(BadInput, match=r"a.tar: link.jpg cannot be read: a link, a device or a sparse file"):
        pack(tmp_path / "a.tar", tmp_path / "out")
    assert pack(tmp_path / "a.tar", tmp_path / "out", skip_bad=True).skipped == 1
    assert origins(tmp_path / "out") == ["good.jpg"]


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("good.jpg", jpeg())
    assert pack(tmp_path / "a.zip", tmp_path / "out", skip_bad=True).samples == 1
    assert "a link in a zip" in (tmp_path / "out/skipped.txt").read_text()


def test_duplicate_names_are_different_images(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x.jpg", jpeg(1))
        add(tar, "y.jpg", jpeg(2))
        add(tar, "x.jpg", jpeg(3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("x.jpg", jpeg(1))
        opened.writestr("y.jpg", jpeg(2))
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("x.jpg", jpeg(3))
    for name in ("a.tar", "a.zip"):
        out = tmp_path / f"{name}.out"
        assert pack(tmp_path / name, out).samples == 3
        images = {sample["jpg"] for sample in webdataset.WebDataset(str(out / "shard-000000.tar"), shardshuffle=False)}
        assert images == {jpeg(1), jpeg(2), jpeg(3)}


class Harm:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pkl", "pth", "mask.pkl"])
def test_pickled_members_are_never_loaded(extension, tmp_path):
    folder = tmp_path / "wds"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        add(tar, "1.jpg", jpeg())
        add(tar, f"1.{extension}", pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(BadInput, match=f"sample 1.jpg has a pickled member \\(.{extension}\\), which runs code"):
        index(folder)
    assert pack(folder, tmp_path / "out").samples == 1
    assert not (tmp_path / "harm").exists()
    assert {Path(name).suffix for name in member_names(tmp_path / "out/shard-000000.tar")} == {".jpg", ".json"}


def test_postscript_named_jpg_is_not_handed_to_an_interpreter(tmp_path):
    harm = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({tmp_path}/harm) (w) file\n%%EOF\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_text(harm)
    with pytest.raises(BadInput, match=r"a\.jpg does not decode: not an image"):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "harm").exists()


def test_a_zip_bomb_is_one_bad_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as opened:
        with opened.open("bomb.jpg", "w", force_zip64=True) as bomb:
            for _ in range(300):
                bomb.write(bytes(2**20))
        opened.writestr("good.jpg", jpeg())
    assert (tmp_path / "a.zip").stat().st_size < 2**20
    assert pack(tmp_path / "a.zip", tmp_path / "out", skip_bad=True).samples == 1
    assert (tmp_path / "out/skipped.txt").read_text() == "bomb.jpg\tmore than 268435456 bytes\n"


def test_a_zip_that_lies_about_a_member_is_one_bad_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("good.jpg", jpeg(1))
        opened.writestr("worse.jpg", jpeg(2))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(jpeg(2)) + 300] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    assert pack(tmp_path / "a.zip", tmp_path / "out", skip_bad=True).samples == 1
    assert "worse.jpg\tBad CRC-32" in (tmp_path / "out/skipped.txt").read_text()


def test_an_encrypted_member_is_one_bad_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("secret.jpg", jpeg(1))
        opened.writestr("good.jpg", jpeg(2))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[6] |= 1  # of the local header
    content[content.index(b"PK\1\2") + 8] |= 1  # of the directory
    (tmp_path / "a.zip").write_bytes(content)
    assert pack(tmp_path / "a.zip", tmp_path / "out", skip_bad=True).samples == 1
    assert "encrypted" in (tmp_path / "out/skipped.txt").read_text()


def test_a_tar_with_a_negative_size_ends(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "good.jpg", jpeg())
        add(tar, "x.jpg", b"12")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    start = content.index(b"x.jpg")
    content[start + 124 : start + 136] = struct.pack(">Bxxxq", 0xFF, -1024).replace(b"\0\0\0", b"\xff\xff\xff")
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadInput, match="is damaged"):
        pack(tmp_path / "a.tar", tmp_path / "out")


def test_random_damage_to_an_archive_ends_in_one_line_or_in_whole_images(tmp_path):
    random = np.random.default_rng(0)
    with tarfile.open(tmp_path / "whole.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(4):
            add(tar, f"{'long' * 30}/{number}.jpg", jpeg(number), pax_headers={"comment": "x"})
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(4):
            opened.writestr(f"{number}.jpg", jpeg(number))
    for kind in ("tar", "zip"):
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        for trial in range(60):
            damaged = bytearray(whole)
            for offset in random.integers(0, len(whole), 20):
                damaged[offset] = random.integers(256)
            archive = tmp_path / f"{trial}.{kind}"
            archive.write_bytes(damaged)
            out = tmp_path / f"out-{kind}-{trial}"
            with contextlib.suppress(BadInput):  # and nothing else
                pack(archive, out, skip_bad=True)
                assert verify(out) == []


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.USTAR_FORMAT)


def test_a_compressed_tar_that_grows_beyond_measure_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fd_scale.data.packing.archives.MOST_UNPACKED", 2**20)
    for name, opener in (("a.tar.gz", gzip.open), ("b.tar.bz2", bz2.open), ("c.tar.xz", lzma.open)):
        with opener(tmp_path / name, "wb") as file:
            file.write(tar_header("1.jpg", 20 * 2**20))
            for _ in range(20):
                file.write(bytes(2**20))
        limit = max(2**20, 100 * (tmp_path / name).stat().st_size)
        with pytest.raises(
            BadInput, match=rf"{name} has \d+ bytes and unpacks to more than {limit}, as archives do that"
        ):
            pack(tmp_path / name, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "b.tar.bz2", "c.tar.xz"]


def test_a_zip_whose_members_are_many_bombs_is_refused_by_their_sum(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(100):
            opened.writestr(f"{number}.jpg", jpeg(number))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    offset = content.find(b"PK\1\2")
    while offset >= 0:  # each entry of the directory announces 200 MB
        content[offset + 24 : offset + 28] = struct.pack("<I", 200_000_000)
        offset = content.find(b"PK\1\2", offset + 4)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BadInput, match=r"a.zip has \d+ bytes and unpacks to more than 1073741824"):
        pack(tmp_path / "a.zip", tmp_path / "out", skip_bad=True)


@pytest.mark.parametrize("kind", ["one name", "attributes", "attributes of all", "map of a sparse file"])
@pytest.mark.parametrize("verb", ["pack", "index"])
def test_headers_made_to_fill_memory_are_refused(verb, kind, tmp_path):
    """`tarfile` reads a long name, attributes and the map of a sparse file into memory, however long they are."""
    folder = tmp_path / "in"
    folder.mkdir()
    large = 64 * 2**20
    with open(folder / "a.tar", "wb") as file:
        if kind == "one name":
            file.write(tar_header("x", large, tarfile.GNUTYPE_LONGNAME) + b"x" * large)
        elif kind == "attributes":
            file.write(tar_header("x", large, tarfile.XHDTYPE) + b"x" * large)
        elif kind == "attributes of all":
            for number in range(200):
                record = b" comment%03d=" % number + b"x" * 200_000 + b"\n"
                record = b"%d" % (len(record) + 6) + record
                file.write(tar_header("x", len(record), tarfile.XGLTYPE) + record + bytes(-len(record) % 512))
                file.write(tar_header(f"{number}.txt", 0))
        else:
            pax = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
            file.write(tar_header("x", len(pax), tarfile.XHDTYPE) + pax.ljust(512, b"\0"))
            file.write(tar_header("1.jpg", large) + b"9999999\n" + b"1\n" * (large // 2 - 4))
        file.write(tar_header("1.jpg", 0) + bytes(1024))
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"a.tar is damaged or no .*headers of more than 262144 bytes"):
        pack(folder / "a.tar", tmp_path / "out") if verb == "pack" else index(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large / 2


def test_a_list_of_one_endless_line_is_refused(tmp_path):
    with open(tmp_path / "a.csv", "w") as file:
        file.write("path\n")
        file.truncate(2**26)
    with pytest.raises(BadInput, match=r"a.csv has a line of more than 1048576 letters"):
        pack(tmp_path / "a.csv", tmp_path / "out")
