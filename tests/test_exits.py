"""Every end of a process maps to the contract, also without the launcher."""

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from fd_scale.errors import BadInput, Retry
from fd_scale.exits import ERROR_FOLDER, run_to_exit_code

pytestmark = pytest.mark.real_start  # how a process really ends is the question
PROGRAM = Path(__file__).parent / "launch" / "program.py"


def raising(error: BaseException):
    def function() -> int:
        raise error

    return function


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in (ERROR_FOLDER, "RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not read the file")
def test_weights_that_this_user_may_not_read_are_bad_input():
    """As on a volume whose files are another's; safetensors says that there is no such file."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders hide what is in them
        os.chmod(folder, 0o755)
        path = Path(folder, "weights.safetensors")
        path.write_bytes(b"x")
        path.chmod(0o600)
        done = read_as_another_user(path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{path} cannot be read" in done.stderr


def read_as_another_user(path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import os, sys\nfrom safetensors import safe_open\nfrom fd_scale.exits import run_to_exit_code\n"
        f"def read():\n    os.setuid(10001)\n    safe_open({str(path)!r}, 'pt')\n"
        "sys.exit(run_to_exit_code(read))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


class DistNetworkError(RuntimeError):
    """Has the name of torch's."""


class DistBackendError(RuntimeError):
    """Has the name of torch's."""


def loader_error(signal_name: str) -> RuntimeError:
    error = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 12) is killed by signal: {signal_name}. ")
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("no such folder"), 2),
        (Retry("storage is away"), 75),
        (RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:3482"), 75),
        (RuntimeError("[unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"), 75),
        (DistNetworkError("The client socket has timed out after 3000ms"), 75),
        (DistBackendError("ncclRemoteError: A call failed possibly due to a network error"), 75),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 75),
        (loader_error("Killed"), 75),
        (DistNetworkError("failed to listen. port: 29500, code: -98, name: EADDRINUSE"), 2),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_expected_end_is_one_line(capsys, error, code):
    assert run_to_exit_code(raising(error)) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("fd-scale: ")
    assert errors.count("\n") == 1


def test_memory_that_ran_out_names_what_takes_less(capsys):
    def of_the_host() -> int:
        return len(torch.empty(10**15))

    def of_a_device() -> int:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 79.11 GiB"
        )

    def of_the_driver() -> int:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    for function, said in (
        (of_the_driver, "CUDA error: out of memory; lower train.micro_batch"),
        (of_the_host, "can't allocate memory: you tried to allocate 4000000000000000 bytes; lower train.micro_batch"),
        (of_a_device, "CUDA out of memory. Tried to allocate 2.25 GiB; lower train.micro_batch"),
    ):
        assert run_to_exit_code(function) == 2
        errors = capsys.readouterr().err
        assert said in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        KeyError("Connection closed by peer"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        MemoryError(),
        DistBackendError("ncclInvalidUsage: Duplicate GPU detected"),
        loader_error("Segmentation fault"),
    ],
)
def test_bug_keeps_its_traceback(capsys, error):
    assert run_to_exit_code(raising(error)) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (75, 75)])
def test_returned_code_is_the_exit_code(capsys, returned, code):
    assert run_to_exit_code(lambda: returned) == code
    assert capsys.readouterr().err == ""


def test_agreed_error_is_printed_by_rank_zero_alone(capsys, monkeypatch):
    lines = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert run_to_exit_code(raising(BadInput("same everywhere", agreed=True))) == 2
        lines.append(capsys.readouterr().err)
    assert lines == ["fd-scale: same everywhere\n", "", ""]


def test_under_a_launcher_the_line_goes_into_the_record(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(ERROR_FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    assert run_to_exit_code(raising(BadInput("no such folder"))) == 2
    assert capsys.readouterr().err == ""
    record = json.loads((tmp_path / "rank_3.json").read_text())
    assert (record["exit_code"], record["line"]) == (2, "no such folder")


def test_line_is_printed_when_the_launcher_and_its_folder_are_gone(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(ERROR_FOLDER, str(tmp_path / "gone"))
    assert run_to_exit_code(raising(BadInput("no such folder"))) == 2
    assert capsys.readouterr().err == "fd-scale: no such folder\n"


def start_rank(rank: int, port: int, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(port)
    environment["PYTHONPATH"] = str(PROGRAM.parents[2])
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_real_lost_peer_ends_with_75_and_one_line_without_a_launcher(tmp_path):
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    ranks = [start_rank(rank, port, "lose_peer", tmp_path) for rank in range(2)]
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [75, -9]
    assert errors[0].startswith("fd-scale: rank 0 ")
    assert "start the same command again to resume\n" in errors[0]


def test_real_port_in_use_ends_with_2_and_names_it(tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        rank = start_rank(0, port, "all_reduce", tmp_path)
        errors = rank.communicate(timeout=60)[1]
    assert rank.returncode == 2
    assert f"fd-scale: port {port} on 127.0.0.1 is in use" in errors


def test_real_killed_loader_worker_ends_with_75():
    rank = start_rank(0, 1, "lose_worker")
    errors = rank.communicate(timeout=60)[1]
    assert rank.returncode == 75
    assert "is killed by signal: Killed" in errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), 2, "/data/x: Read-only file system; choose another"),
        (OSError(errno.EACCES, "Permission denied", "/data/x"), 2, "/data/x: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 2, "...: File name too long"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/data"), 2, "/data: Is a directory"),
        (
            OSError(errno.EIO, "Input/output error", "/data/x"),
            75,
            "/data/x: Input/output error: storage does not answer",
        ),
        (OSError(errno.ESTALE, "Stale file handle"), 75, "Stale file handle: storage does not answer"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), 75, "Connection timed out: storage does not answer"),
    ],
)
def test_what_the_system_says_of_a_place_is_one_line(capsys, error, code, line):
    assert run_to_exit_code(raising(error)) == code
    errors = capsys.readouterr().err
    assert line in errors
    assert errors.count("\n") == 1
    assert len(errors) < 500


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EPERM, "Operation not permitted"), FileNotFoundError(2, "", "x")]
)
def test_what_the_system_says_of_anything_else_is_a_bug(capsys, error):
    assert run_to_exit_code(raising(error)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_rank_that_is_no_number_and_a_name_that_is_not_utf_8_do_not_break_the_record(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(ERROR_FOLDER, str(tmp_path))
    for rank in ("abc", "3"):
        monkeypatch.setenv("RANK", rank)
        assert run_to_exit_code(raising(BadInput("no file a\udcff"))) == 2
        assert json.loads((tmp_path / f"rank_{rank}.json").read_text())["line"] == "no file a\udcff"
    assert capsys.readouterr().err == ""


def test_a_name_that_the_terminal_lacks_is_shown_and_no_failure():
    program = "import sys; from fd_scale.exits import run_to_exit_code; sys.exit(run_to_exit_code(lambda: print('é')))"
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xe9\n", "")


def test_a_line_that_quotes_a_book_keeps_its_beginning_and_its_end():
    line = str(BadInput(f"a value {'x' * 100_000}: give another"))
    assert len(line) < 2100
    assert line.startswith("a value xxx")
    assert line.endswith("xxx: give another")
