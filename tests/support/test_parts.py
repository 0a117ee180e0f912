"""The map of the exhaustive sweeps is whole: each is in a part, and each part is about files that exist."""

import re
from fnmatch import fnmatch

import pytest

from support import parts
from support.parts import PARTS, Part

REPOSITORY = parts.REPOSITORY
SWEEPS = re.compile(r"^\s*@pytest\.mark\.exhaustive|[(\s]sweep\(", re.MULTILINE)


def test_every_sweep_is_in_a_part_and_every_part_has_one():
    files = [path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "tests").rglob("test_*.py")]
    with_sweeps = {name for name in files if SWEEPS.search((REPOSITORY / name).read_text())}
    with_sweeps |= {name for name in files if name.startswith("tests/cluster/")}
    mapped = {name for name in with_sweeps for part in PARTS.values() if name.startswith(part.tests)}
    assert mapped == with_sweeps
    for name, part in PARTS.items():
        for path in part.tests:
            assert any(found.startswith(path) for found in with_sweeps), (name, path)


def test_every_pattern_matches_a_file():
    tracked = parts._tracked()
    for name, part in PARTS.items():
        for pattern in part.files:
            assert any(fnmatch(file, pattern) for file in tracked), (name, pattern)


def test_a_change_of_a_file_changes_the_hash_of_its_parts_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "REPOSITORY", tmp_path)
    monkeypatch.setattr(parts, "_tracked", lambda: ["a.py", "b.py", "tests/test_a.py"])
    for name in parts._tracked():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    of_a, of_b = Part(("tests/test_a.py",), ("a*",)), Part((), ("b*",))
    before = parts.hash_of(of_a), parts.hash_of(of_b)
    for name, changed in (("a.py", (True, False)), ("b.py", (False, True)), ("tests/test_a.py", (True, False))):
        (tmp_path / name).write_text("y")
        after = parts.hash_of(of_a), parts.hash_of(of_b)
        assert tuple(new != old for new, old in zip(after, before, strict=True)) == changed, name
        before = after


def test_a_spread_that_names_what_is_not_there_is_refused():
    assert parts.sweep([1, 2], [2])[1] == 2
    with pytest.raises(AssertionError, match="the spread names"):
        parts.sweep([1, 2], [3])
