"""The same behaviour of a folder and of URLs, an S3 server on this machine among them."""

import uuid
from pathlib import Path

import pytest

from fd_scale.errors import BadInput, Retry
from fd_scale.parallel.checkpoint.storage import MANIFEST, LocalStorage, checkpoints_of, storage


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request, tmp_path):
    return {
        "folder": lambda: storage(tmp_path / "checkpoints"),
        "file": lambda: storage(f"file://{tmp_path}/checkpoints"),
        "memory": lambda: storage(f"memory://{uuid.uuid4()}"),
        "s3": lambda: storage(f"{request.getfixturevalue('bucket')}/{uuid.uuid4()}"),
    }[request.param]()


def put(place, step: int, content: bytes = b"0123456789") -> None:
    place.prepare(step)
    for name in ("part", MANIFEST):
        with place.create(step, name) as file:
            file.write(content)
    place.commit(step)


def test_what_was_committed_is_there_and_can_be_read_in_pieces(place):
    assert place.steps() == []
    put(place, 100000001)
    put(place, 7)
    assert place.steps() == [7, 100000001]
    assert place.size(7, "part") == 10
    view = bytearray(4)
    place.read_into(7, "part", 3, memoryview(view))
    assert view == b"3456"
    with pytest.raises(OSError, match="ends before"):
        place.read_into(7, "part", 8, memoryview(view))
    with pytest.raises(FileNotFoundError):
        place.size(7, "absent")


def test_what_was_not_committed_never_counts_and_is_tidied_up_by_the_next(place):
    put(place, 1)
    place.prepare(2)
    with place.create(2, "part") as file:
        file.write(b"half")
    put(place, 3)
    assert place.steps() == [1, 3]
    if isinstance(place, LocalStorage):  # elsewhere a step that is not whole would show as one
        assert sorted(path.name for path in place.folder.iterdir()) == ["step_00000001", "step_00000003"]


def test_a_step_written_again_replaces_the_damaged_one(place):
    put(place, 1, b"old and longer")
    put(place, 1, b"new")
    assert place.steps() == [1]
    assert place.size(1, "part") == 3


def test_removed_and_discarded_steps_are_gone(place):
    put(place, 1)
    place.remove(1)
    place.remove(1)
    place.prepare(2)
    place.discard(2)
    assert place.steps() == []


def test_names_that_are_no_steps_are_left_alone(tmp_path):
    for name in ("step_1", "step_0000000x", "other"):
        (tmp_path / name).mkdir()
    place = storage(tmp_path)
    put(place, 3)
    assert place.steps() == [3]
    assert {p.name for p in tmp_path.iterdir()} == {"step_1", "step_0000000x", "other", "step_00000003"}


def test_a_url_that_nothing_serves_is_refused_in_one_line():
    with pytest.raises(BadInput, match="nothing here serves nonsense://"):
        storage("nonsense://bucket/run")


def test_a_password_in_a_url_is_refused_without_being_repeated():
    with pytest.raises(BadInput, match="sftp:// address for checkpoints holds a password") as caught:
        storage("sftp://user:secret@127.0.0.1/runs")
    assert "secret" not in str(caught.value)


def test_a_store_that_does_not_answer_is_worth_a_retry(bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    place = storage(f"{bucket}/x")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Retry, match=r"s3://runs/x does not answer: EndpointConnectionError"):
        place.steps()


def test_a_run_folder_knows_where_its_checkpoints_are(tmp_path):
    assert str(checkpoints_of(tmp_path)) == str(tmp_path)
    (tmp_path / "config.yaml").write_text("run: {checkpoints: null}")
    assert str(checkpoints_of(tmp_path)) == str(tmp_path / "checkpoints")
    (tmp_path / "config.yaml").write_text("run: {checkpoints: 'memory://elsewhere'}")
    assert str(checkpoints_of(tmp_path)) == "memory://elsewhere"
    assert str(checkpoints_of(Path("s3:/x"))) == "s3:/x"
