"""The same behaviour of a folder and of URLs, an S3 server on this machine among them."""

import re
import threading
import uuid
from base64 import b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fd_scale.errors import BadInput, Retry
from fd_scale.parallel.checkpoint.storage import MANIFEST, LocalStorage, checkpoints_of, open_storage


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def storage(request, tmp_path):
    return {
        "folder": lambda: open_storage(tmp_path / "checkpoints"),
        "file": lambda: open_storage(f"file://{tmp_path}/checkpoints"),
        "memory": lambda: open_storage(f"memory://{uuid.uuid4()}"),
        "s3": lambda: open_storage(f"{request.getfixturevalue('bucket')}/{uuid.uuid4()}"),
    }[request.param]()


def put(storage, step: int, content: bytes = b"0123456789") -> None:
    storage.prepare(step)
    for name in ("part", MANIFEST):
        with storage.create(step, name) as file:
            file.write(content)
    storage.commit(step)


def test_what_was_committed_is_there_and_can_be_read_in_pieces(storage):
    assert storage.steps() == []
    put(storage, 100000001)
    put(storage, 7)
    assert storage.steps() == [7, 100000001]
    assert storage.size(7, "part") == 10
    view = bytearray(4)
    storage.read_into(7, "part", 3, memoryview(view))
    assert view == b"3456"
    with pytest.raises(OSError, match="ends before"):
        storage.read_into(7, "part", 8, memoryview(view))
    with pytest.raises(FileNotFoundError):
        storage.size(7, "absent")


def test_what_was_not_committed_never_counts_and_is_tidied_up_by_the_next(storage):
    put(storage, 1)
    storage.prepare(2)
    with storage.create(2, "part") as file:
        file.write(b"half")
    put(storage, 3)
    assert storage.steps() == [1, 3]
    if isinstance(storage, LocalStorage):  # elsewhere a step that is not whole would show as one
        assert sorted(path.name for path in storage.folder.iterdir()) == ["step_00000001", "step_00000003"]


def test_a_step_written_again_replaces_the_damaged_one(storage):
    put(storage, 1, b"old and longer")
    put(storage, 1, b"new")
    assert storage.steps() == [1]
    assert storage.size(1, "part") == 3


def test_removed_and_discarded_steps_are_gone(storage):
    put(storage, 1)
    storage.remove(1)
    storage.remove(1)
    storage.prepare(2)
    storage.discard(2)
    assert storage.steps() == []


def test_names_that_are_no_steps_are_left_alone(tmp_path):
    for name in ("step_1", "step_0000000x", "other"):
        (tmp_path / name).mkdir()
    storage = open_storage(tmp_path)
    put(storage, 3)
    assert storage.steps() == [3]
    assert {p.name for p in tmp_path.iterdir()} == {"step_1", "step_0000000x", "other", "step_00000003"}


def test_a_url_that_nothing_serves_is_refused_in_one_line():
    with pytest.raises(BadInput, match="nothing here serves nonsense://"):
        open_storage("nonsense://bucket/run")


def test_secrets_of_a_url_are_in_no_name_and_no_message(tmp_path):
    with pytest.raises(BadInput, match=r"nothing here serves nonsense:// ") as caught:
        open_storage("nonsense://user:hunter2Pass@127.0.0.1/runs?token=hunter2Pass")
    assert "hunter2" not in str(caught.value)
    storage = open_storage(f"file://{tmp_path}/runs?token=hunter2Pass")
    put(storage, 3)
    assert storage.steps() == [3]
    assert str(storage) == f"file://{tmp_path}/runs"
    assert storage.where(3, "part") == f"file://{tmp_path}/runs/step_00000003/part"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


class Guarded(SimpleHTTPRequestHandler):
    """Serves a folder to those who know a password or a token, and parts of files to those who ask for parts."""

    def do_GET(self):
        address = urlsplit(self.path)
        password = b64encode(b"user:hunter2Pass").decode()
        if self.headers["Authorization"] != f"Basic {password}" and address.query != "token=hunter2Pass":
            return self.send_error(401)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        file = Path(self.translate_path(address.path))
        if file.is_dir() or asked is None:
            return super().do_GET()
        first, last = map(int, asked.groups())
        part = file.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{file.stat().st_size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None

    def do_HEAD(self):
        if "token=hunter2Pass" in self.path or self.headers["Authorization"]:
            return super().do_HEAD()
        return self.send_error(401)

    def log_message(self, *_):
        pass


@pytest.fixture
def guarded(tmp_path):
    put(open_storage(tmp_path), 3)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("form", ["http://user:hunter2Pass@{}", "http://{}/?token=hunter2Pass"])
def test_a_server_that_asks_for_a_secret_gets_it_and_nobody_else_does(guarded, form):
    storage = open_storage(form.format(guarded))
    assert storage.steps() == [3]
    assert storage.size(3, "part") == 10
    view = bytearray(4)
    storage.read_into(3, "part", 3, memoryview(view))
    assert view == b"3456"
    assert "hunter2" not in str(storage) + storage.where(3, "part")
    assert "***" in storage.where(3, "part")


def test_a_server_that_refuses_a_secret_does_not_make_it_known(guarded):
    with pytest.raises((Retry, OSError)) as caught:
        open_storage(f"http://user:wrongPass@{guarded}").steps()
    assert "wrongPass" not in str(caught.value)


def test_a_store_that_does_not_answer_is_worth_a_retry(bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    storage = open_storage(f"{bucket}/x")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Retry, match=r"s3://runs/x does not answer: EndpointConnectionError"):
        storage.steps()


def test_a_run_folder_knows_where_its_checkpoints_are(tmp_path):
    assert str(checkpoints_of(tmp_path)) == str(tmp_path)
    (tmp_path / "config.yaml").write_text("run: {checkpoints: null}")
    assert str(checkpoints_of(tmp_path)) == str(tmp_path / "checkpoints")
    (tmp_path / "config.yaml").write_text("run: {checkpoints: 'sftp://user:***@host/runs'}")
    with pytest.raises(BadInput, match=r"sftp://user:\*\*\*@host/runs, whose secret stands in no file"):
        checkpoints_of(tmp_path)
    (tmp_path / "config.yaml").write_text("run: {checkpoints: 'memory://elsewhere'}")
    assert str(checkpoints_of(tmp_path)) == "memory://elsewhere"
    assert str(checkpoints_of(Path("s3:/x"))) == "s3:/x"
