"""Where packed data is written to: places that are none, disks that are full or read-only, names of any kind."""

import io
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import small_disk

from fd_scale.cli import main
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.reader import ShardReader
from fd_scale.errors import BadInput

LONG = "x" * 300


def fd_scale(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "fd_scale", *map(str, words)], capture_output=True)


@pytest.fixture
def tars(shards, tmp_path) -> Path:
    folder = tmp_path / "tars"
    folder.mkdir()
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, folder)
    return folder


@pytest.mark.parametrize("out", ["/", "/dev/null", "/dev/null/out", LONG, "y" * 250, "looping"])
def test_what_cannot_become_a_folder_of_shards_is_one_line_before_any_work(out, image_folder, tmp_path):
    (tmp_path / "looping").symlink_to("looping")
    before = sorted(os.listdir(tmp_path))
    done = fd_scale("pack", image_folder, tmp_path / out, "--workers", "1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"fd-scale: ")
    assert done.stderr.count(b"\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("words", [["pack", LONG, "out"], ["index", LONG], ["verify", LONG]])
def test_a_source_whose_name_is_too_long_is_one_line(words, tmp_path):
    done = fd_scale(words[0], *(tmp_path / word for word in words[1:]))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"ame too long" in done.stderr


def test_names_that_are_not_unicode_are_packed_and_shown(image_folder, tmp_path, monkeypatch, capsys):
    """Inside of a data set; what the command line itself names has to be text."""
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("a\udcb9/\udcfe.jpg", "b/1.jpg"):
        (source / name).parent.mkdir(parents=True)
        shutil.copy(next(image_folder.rglob("*.jpg")), source / name)

    def said(*words: str) -> str:
        """On a terminal that is strict about its letters."""
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            with pytest.raises(SystemExit) as ended:
                main([*words, "--workers", "1"])
        assert (ended.value.code, capsys.readouterr().err) == (0, "")
        terminal.flush()
        return terminal.buffer.getvalue().decode()

    assert "2 images of 2 classes (a%B9, b) in 1 shards" in said("pack", str(source), str(out))
    assert said("verify", str(out)) == f"{tmp_path}/out is whole\n"
    (out / "manifest.json").unlink()
    (out / "shard-000000.tar").rename(out / "\udcff.tar")
    assert "2 images of 2 classes (a%B9, b) in 1 shards" in said("index", str(out))
    assert "is whole" in said("verify", str(out))
    assert ShardReader(out)[0].id.startswith("%FF.tar/")


def test_where_a_file_system_begins_is_refused_before_any_work(image_folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, mebibytes=4):
        with pytest.raises(BadInput, match=r"disk is where a file system begins; give a new folder in it, such as"):
            pack(image_folder, disk)
        assert os.listdir(tmp_path) == ["disk"]
        assert pack(image_folder, disk / "shards").samples == 48


def test_a_link_to_an_empty_folder_is_filled_behind_it(image_folder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    pack(image_folder, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert verify(tmp_path / "real") == []


@pytest.mark.parametrize("name", ["shard-000001.idx", "skipped.txt", "manifest.json"])
@pytest.mark.parametrize("kind", ["folder", "device", "link to a device"])
def test_what_stands_where_index_writes_stays_what_it_is(kind, name, tars):
    target = tars / name
    if kind == "folder":
        target.mkdir()
    elif kind == "device":
        try:
            os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs root")
    else:
        target.symlink_to("/dev/null")
    before = os.lstat(target).st_mode
    content = bytearray((tars / "shard-000001.tar").read_bytes())
    content[512:600] = bytes(88)  # no image any more, so that there is something to list in skipped.txt
    (tars / "shard-000001.tar").write_bytes(content)
    done = fd_scale("index", tars, "--workers", "1", "--skip-bad")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"fd-scale: ")
    assert name.encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert os.lstat(target).st_mode == before
    assert not (tars / "manifest.json").is_file()
    assert not [path for path in tars.glob(".*.partial") if path.is_file()]


def fill(file: int) -> None:
    while True:
        os.write(file, bytes(4096))


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_index_on_a_disk_that_takes_nothing_leaves_nothing_that_looks_whole(state, tars, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, mebibytes=1):
        for tar in tars.iterdir():
            shutil.copy(tar, disk)
        if state == "full":
            filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
            with pytest.raises(OSError, match="No space"):
                fill(filler)
            os.close(filler)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        before = sorted(path.name for path in disk.iterdir())
        done = fd_scale("index", disk, "--workers", "2")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1
        assert (b"o space left" if state == "full" else b"Read-only file system") in done.stderr
        assert sorted(path.name for path in disk.iterdir()) == before
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        (disk / "filler").unlink(missing_ok=True)
        assert index(disk).samples == 48
