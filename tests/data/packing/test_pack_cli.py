"""pack, index and verify as commands: what they print, and how they end."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios

import pytest

from fd_scale.data.shards import read_index


def fd_scale(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fd_scale", *map(str, words)], capture_output=True, text=True)


def test_pack_and_verify_say_what_they_did(image_folder, tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    done = fd_scale("pack", image_folder, out, "--shard-samples", 20)
    assert (done.returncode, done.stdout) == (0, f"48 images of 2 classes (class_0, class_1) in 3 shards: {out}\n")
    assert done.stderr == ""  # no bar where nobody looks
    done = fd_scale("verify", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out} is whole\n", "")


def test_verify_prints_each_damaged_sample_and_ends_with_2_and_one_line(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    content = bytearray((copy / "shard-000001.tar").read_bytes())
    samples = read_index(copy / "shard-000001.idx")
    for number in (2, 7):
        content[samples[number][0].offset + 200] ^= 1
    (copy / "shard-000001.tar").write_bytes(content)
    done = fd_scale("verify", copy)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"shard-000001.tar/{samples[number][0].name}: not the bytes that were packed" for number in (2, 7)
    ]
    assert done.stderr == f"fd-scale: {copy} is damaged in 2 places, listed above; copy or pack it again\n"


def test_skipped_images_are_said(image_folder, tmp_path):
    source = shutil.copytree(image_folder, tmp_path / "source")
    (source / "class_0" / "bad.jpg").touch()
    done = fd_scale("pack", source, tmp_path / "out", "--skip-bad", "--workers", 2)
    assert done.returncode == 0
    assert (
        f"48 images of 2 classes (class_0, class_1) in 1 shards (1 left out: {tmp_path}/out/skipped.txt)" in done.stdout
    )


def test_a_folder_of_shards_is_indexed_in_place(shards, tmp_path):
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, tmp_path)
    done = fd_scale("index", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"48 images of 2 classes (class_0, class_1) in 3 shards: {tmp_path}\n")
    assert fd_scale("verify", tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pack", "/nowhere", "OUT"], "/nowhere is not a folder, nor an archive or a list of a known kind"),
        (["pack", "pipe:touch OUT", "OUT"], "pipe:touch OUT is a URL; pack reads local files only and runs no command"),
        (["pack", "IMAGES", "IMAGES"], "is the source itself; webdataset shards are described in place by"),
        (["pack", "IMAGES", "OUT", "--workers", "0"], "workers=0: give a whole number from 1 to 1024"),
        (["pack", "IMAGES", "OUT", "--short-side", "-5"], "short_side=-5: give a whole number"),
        (["pack", "IMAGES", "OUT", "--shard-samples", "0"], "shard_samples=0: give a whole number"),
        (["pack", "IMAGES", "OUT", "--seed", "-1"], "seed=-1: give a whole number"),
        (["pack", "BAD", "OUT"], "bad.jpg does not decode: empty; repair or remove it"),
        (["pack", "BAD", "OUT", "--workers", "2", "--shard-samples", "1"], "bad.jpg does not decode: empty"),
        (["pack", "BAD/bad.jpg", "OUT"], "bad.jpg is not a folder, nor an archive or a list"),
        (["pack", "EMPTY", "OUT"], "no images in"),
        (["pack", "TAR", "OUT"], "is damaged or no such archive"),
        (["pack", "IMAGES", "/proc/OUT"], "/proc"),
        (["index", "EMPTY"], "is not a folder with .tar files"),
        (["index", "SHARDS"], "has a manifest.json already"),
        (["verify", "EMPTY"], "holds no manifest.json"),
        (["verify", "SHARDS", "--workers", "-1"], "workers=-1: give a whole number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_2(arguments, line, image_folder, shards, tmp_path):
    for name in ("BAD", "EMPTY"):
        (tmp_path / name).mkdir()
    (tmp_path / "BAD" / "bad.jpg").touch()
    (tmp_path / "TAR.tar").write_bytes(b"x" * 2000)
    paths = {"IMAGES": image_folder, "SHARDS": shards, "TAR": tmp_path / "TAR.tar"}
    paths |= {name: tmp_path / name for name in ("BAD", "EMPTY", "OUT", "BAD/bad.jpg")}
    done = fd_scale(*(paths.get(word, word) for word in arguments))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("fd-scale: ")
    assert line in done.stderr
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_someone_at_a_terminal_sees_rate_and_time_left(workers, image_folder, tmp_path):
    terminal, far = pty.openpty()
    termios.tcsetwinsize(far, (24, 100))
    command = [sys.executable, "-m", "fd_scale", "pack", str(image_folder), str(tmp_path / "out"), "--workers", workers]
    with subprocess.Popen([*command, "--shard-samples", "9"], stderr=far, stdout=subprocess.DEVNULL) as process:
        os.close(far)
        seen = b""
        while process.poll() is None or select.select([terminal], [], [], 0.2)[0]:
            try:
                seen += os.read(terminal, 4096) if select.select([terminal], [], [], 0.2)[0] else b""
            except OSError:  # how a terminal says that the other end has gone
                break
    os.close(terminal)
    assert re.search(r"packing: 100%.*48/48 \[\d+:\d+<\d+:\d+, .*image/s", seen.decode())
