"""Logs of all ranks, merged by time."""

from pathlib import Path

import pytest

from fd_scale.errors import BadInput
from fd_scale.verbs.status import status
from fd_scale.watching import logs
from fd_scale.watching.logs import merged


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "logs").mkdir()
    write(tmp_path, 0, "10:00:00,000 INFO began", "10:00:02,000 ERROR failed", "Traceback:", "  a bug")
    write(tmp_path, 12, "10:00:01,500 INFO late", "10:00:03,000 INFO ended")
    (tmp_path / "logs" / "rank_00001.stacks").write_text("no log\n")
    return tmp_path


def write(run: Path, rank: int, *lines: str) -> None:
    text = "".join(f"2026-11-29 {line}\n" if line[0].isdigit() else f"{line}\n" for line in lines)
    (run / "logs" / f"rank_{rank:05d}.log").write_text(text)


ALL = [
    "2026-11-29 10:00:00,000 rank  0 INFO began",
    "2026-11-29 10:00:01,500 rank 12 INFO late",
    f"2026-11-29 10:00:02,000 rank  0 ERROR failed\n{' ' * 24}Traceback:\n{' ' * 24}  a bug",
    "2026-11-29 10:00:03,000 rank 12 INFO ended",
]


def test_entries_come_by_time_with_their_rank_and_all_their_lines(run):
    assert list(merged(run)) == ALL


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("line_bytes", [1, 10, 200])
def test_the_last_entries_are_those_of_the_whole(run, count, line_bytes, monkeypatch):
    monkeypatch.setattr(logs, "LINE_BYTES", line_bytes)
    assert list(merged(run, last=count)) == ALL[-count:]


def test_of_a_large_log_only_the_end_is_read(run, monkeypatch):
    line = "2026-11-29 09:00:00,000 INFO an early step\n"
    with (run / "logs" / "rank_00001.log").open("w") as file:
        file.write(line * 200_000)
    read: list[int] = []
    original = logs.last_bytes
    monkeypatch.setattr(logs, "last_bytes", lambda path, most: read.append(most) or original(path, most))
    assert list(merged(run, last=4)) == [entry.replace("rank 12", "rank 12") for entry in ALL]
    assert sum(read) < 100_000


def test_a_clock_that_was_set_back_does_not_hide_a_line(run):
    write(run, 0, "10:00:02,000 INFO first", "10:00:01,000 INFO second")
    text = "\n".join(merged(run))
    assert text.index("first") < text.index("second")


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"has no logs/rank_\*.log"):
        status([str(tmp_path)], logs=True)
