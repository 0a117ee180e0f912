"""Targets are refused before the work, files come into place whole, and what is read back is bounded."""

import contextlib
import errno
import os
import re
import socket
import time
from pathlib import Path

import pytest
from support.helpers import small_disk

from fd_scale import files
from fd_scale.config import load_config
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.files import check_folder, check_target, parse_json, parse_yaml, read_small, whole_file, write_whole


def test_a_target_that_is_no_place_for_a_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, line in (
            ("folder", "is a folder; name a file in it"),
            ("pipe", "is a device, a pipe or a socket"),
            ("socket", "is a device, a pipe or a socket"),
            ("link", "is a device, a pipe or a socket"),
            ("file/below", f"would lie below {tmp_path / 'file'}, which is no folder"),
            ("x" * 256, r"the name is too long \(256 bytes"),
            ("é" * 128, r"the name is too long \(256 bytes"),
            ("new/" + "x" * 256 + "/file", r"the name is too long \(256 bytes"),
            ("a/" * 2500 + "file", "the name is too long"),
            (os.fsdecode(b"a\xff"), "holds bytes that are not UTF-8"),
            ("a\0b", "or a zero byte"),
        ):
            with pytest.raises(BadInput, match=line):
                check_target(tmp_path / name, "OUT")
    with pytest.raises(BadInput, match="OUT /proc/new/file cannot be written: /proc: "):
        check_target("/proc/new/file", "OUT")
    assert sorted(os.listdir(tmp_path)) == ["circle", "file", "folder", "link", "pipe", "socket"]


def test_a_target_on_a_read_only_disk_is_refused_and_one_that_fits_is_not(tmp_path):
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", mebibytes=1, remounted="ro"):
        for check in (check_target, check_folder):
            for name in ("one", "new/one"):
                with pytest.raises(BadInput, match=r"cannot be written: .*: Read-only file system; choose another"):
                    check(tmp_path / "disk" / name, "OUT")
    for name in ("file", "new/folder/file", "x" * 255):
        check_target(tmp_path / name, "OUT")
    check_folder(tmp_path / "new/folder", "run.folder")
    assert os.listdir(tmp_path) == ["disk"]


def test_a_file_comes_into_place_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "new" / "file", "before")
    with contextlib.suppress(KeyboardInterrupt), whole_file(tmp_path / "new" / "file") as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert (tmp_path / "new" / "file").read_text() == "before"
    (tmp_path / "link").symlink_to("new/file")
    write_whole(tmp_path / "link", b"after")
    assert (tmp_path / "new" / "file").read_bytes() == b"after"
    write_whole(tmp_path / ("x" * 255), "the longest name")
    assert sorted(os.listdir(tmp_path)) == ["link", "new", "x" * 255]
    assert os.listdir(tmp_path / "new") == ["file"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(BadInput, match=f"{name} is there and is not a regular file; remove or rename it"):
            write_whole(tmp_path / name, "content")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_only_a_full_disk_is_told_as_one():
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(BadInput, match="no space left for it"), files.refusing_full_disk("no space left for it"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="Input/output error"), files.refusing_full_disk("no space left for it"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    """Only a power failure shows the difference, so the order of calls stands for it. Each is really made."""
    calls: list[str] = []

    def watched(name: str):
        real = getattr(os, name)

        def call(*given):
            calls.append(name if name != "fsync" else f"fsync {Path(os.readlink(f'/proc/self/fd/{given[0]}')).name}")
            return real(*given)

        monkeypatch.setattr(os, name, call)

    watched("fsync")
    watched("replace")
    write_whole(tmp_path / "new" / "file", "content")
    assert calls == [f"fsync {tmp_path.name}", "fsync .file.partial", "replace", "fsync new"]


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    + ["run: *a11"]
)
MERGING = "\n".join(
    ["a0: &a0 {x: 1, y: 2, z: 3}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
)
CHAIN = "\n".join(["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, "more than 20000 values, aliases written out"),
        (MERGING, "more than 20000 values, aliases written out"),
        (CHAIN, "nested deeper than 32 levels"),
        ("a: &a [*a]", "or within itself"),
        ("a: &a {b: *a}", "or within itself"),
        ("[" * 20_000, "nested deeper than 32 levels"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: {b: " + "9" * 400 + "}", "a.b is a number of over 300 digits"),
        ("a: 0x" + "f" * 5000, "a is a number of over 300 digits"),
        ('a: {b: "\\ud800"}', "a.b holds bytes that are not UTF-8"),
        ('a: "x\\0y"', "or a zero byte"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: \0", "unacceptable character"),
        ("a: 2020-13-45", "month must be in 1..12"),
    ],
    ids=lambda value: value[:12],
)
def test_hostile_yaml_is_refused_in_bounded_time(text, line, tmp_path):
    began = time.process_time()
    with pytest.raises(ValueError, match=re.escape(line)):
        parse_yaml(text)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(BadInput, match=f"config.yaml is not YAML of settings: .*{re.escape(line)}"):
        load_config(ProbeJobConfig, tmp_path / "config.yaml")
    assert time.process_time() - began < 5


def test_ordinary_yaml_keeps_its_aliases():
    text = "common: &common {a: 1, b: [x, y]}\nfirst: {<<: *common, a: 2}\nsecond: *common\n"
    first, second = {"a": 2, "b": ["x", "y"]}, {"a": 1, "b": ["x", "y"]}
    assert parse_yaml(text) == {"common": second, "first": first, "second": second}
    assert parse_yaml("") is None


def test_a_file_that_never_ends_or_is_too_long_is_not_read(tmp_path):
    (tmp_path / "long").write_bytes(b"x" * (files.MOST_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    for path, line in (
        (tmp_path / "long", "it has more than 262144 bytes"),
        (tmp_path / "pipe", "it is a device, a pipe or a socket"),
        (Path("/dev/zero"), "it is a device, a pipe or a socket"),
    ):
        with pytest.raises(ValueError, match=line):
            read_small(path)
        with pytest.raises(BadInput, match=f"{path} cannot be read: {line}"):
            load_config(ProbeJobConfig, path)
    with pytest.raises(IsADirectoryError):
        read_small(tmp_path)


def test_json_that_python_does_not_take_is_a_value_error():
    for text in ("[" * 100_000, "9" * 5000, "{", "", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011  whatever the message
            parse_json(text)
