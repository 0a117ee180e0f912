"""A pytest plugin: what one run of the suite has in common, however many processes run its tests.

- One folder, in which the warm servers listen and in which `once` keeps what is made once and only looked at.
- Every test begins with the same random state, and fails if it leaves something behind in its process that the next
  test would meet: the order of tests is drawn anew in each run.
"""

import contextlib
import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import warm

FOLDER = "FD_SCALE_TEST_FOLDER"
"""Environment variable: the folder of this run of the suite."""
WATCHED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# pytest's own.
KEPT = "PYTEST_"
# What libraries write into the environment for themselves; put back, but nobody's fault.
LIBRARIES = (
    "MLFLOW_",
    "_MLFLOW_",
    "WANDB_",
    "TORCHINDUCTOR_",
    "TRITON_",
    "KMP_",
    "PYTORCH_",
    "CUDA_",
    "DS_",
    "TF_",
    "QT_",
    "LD_LIBRARY_PATH",
    "TOKENIZERS_PARALLELISM",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        warm.install()
        return
    if not config.getoption("numprocesses", None):  # else it starts those that run the tests, and runs none itself
        warm.install()
    folder = Path(tempfile.mkdtemp(prefix="fd_scale_tests_"))
    os.environ[FOLDER] = str(folder)
    warm.prepare(folder / "warm")
    config.pluginmanager.register(_Root(folder), "fd_scale_root")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item):
    if item.get_closest_marker("real_start") is None:
        return (yield)
    with warm.real():
        return (yield)


class _Root:
    """In the one process that started the run."""

    def __init__(self, folder: Path):
        self.folder = folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        if session.config.getoption("numprocesses", None):
            warm.start_if_nobody_has()  # the workers will want it, and collecting takes as long as its imports

    # After the workers have ended (xdist's hook), before the account adds up.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        warm.stop()
        changed = [name for record in sorted(self.folder.glob("*.made")) if (name := _changed(record))]
        if changed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\nchanged by a test, though shared: {', '.join(changed)}", file=sys.stderr)
        elif session.exitstatus == pytest.ExitCode.OK:
            shutil.rmtree(self.folder, ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` as `make` filled it, for the first who asks; to be looked at, copied, and never changed.

    Raises:
        RuntimeError: it was tried before in this run of the suite, and failed.
    """
    shared = Path(os.environ[FOLDER])
    folder, record = shared / name, shared / f"{name}.made"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            if folder.exists():
                raise RuntimeError(f"{folder} could not be made; the first test that asked for it says why")
            folder.mkdir()
            make(folder)
            record.write_text(_listing(folder))
    return folder


def _listing(folder: Path) -> str:
    """What is in a folder, with sizes and times of change."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found)


def _changed(record: Path) -> str:
    return "" if record.read_text() == _listing(record.with_suffix("")) else record.stem


@pytest.fixture(autouse=True, scope="module")
def nothing_leaks_from_a_module() -> Iterator[None]:
    """What its fixtures set up for all its tests, they take back."""
    with _as_before("the fixtures of the module leave"):
        yield


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Equal random states before, and afterwards the state of the process that was there before."""
    _seed()
    with _as_before("the test leaves"):
        yield


@contextlib.contextmanager
def _as_before(who: str) -> Iterator[None]:
    before = _state()
    yield
    after = _state()
    _restore(before)
    for state in (before, after):
        state["environment"] = {k: v for k, v in state["environment"].items() if not k.startswith(LIBRARIES)}
    # What torch has none of is not left behind: it was imported meanwhile.
    known = [name for name in before if before[name] is not None]
    left = [_difference(name, before[name], after[name]) for name in known if before[name] != after[name]]
    assert not left, f"{who} something behind: {'; '.join(left)}"


def _difference(name: str, before: object, after: object) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return f"{name}: " + ", ".join(f"{key} {before.get(key)!r} -> {after.get(key)!r}" for key in changed)
    return f"{name}: {before!r} -> {after!r}"


def _seed() -> None:
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _state() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    return {
        "working directory": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(KEPT)},
        "handlers of signals": {number.name: signal.getsignal(number) for number in WATCHED_SIGNALS},
        "process group": torch is not None and torch.distributed.is_initialized(),
        "threads of torch": torch.get_num_threads() if torch else None,
        "type of new tensors": torch.get_default_dtype() if torch else None,
        "gradients": torch.is_grad_enabled() if torch else None,
        # DeepSpeed puts another into its place, which torch.compile then differentiates wrongly.
        "torch.nn.functional.linear": torch.nn.functional.linear if torch else None,
        "children": [child.name for child in multiprocessing.active_children()],
    }


def _restore(before: dict[str, Any]) -> None:
    """So that one leak fails one test."""
    torch = sys.modules.get("torch")
    os.chdir(before["working directory"])
    for name in set(os.environ) - set(before["environment"]):
        if not name.startswith(KEPT):
            del os.environ[name]
    os.environ.update(before["environment"])
    for name, handler in before["handlers of signals"].items():
        signal.signal(getattr(signal, name), handler)
    if torch is not None:
        if not before["process group"] and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if before["threads of torch"] is not None:
            torch.set_num_threads(before["threads of torch"])
            torch.set_default_dtype(before["type of new tensors"])
            torch.set_grad_enabled(before["gradients"])
            torch.nn.functional.linear = before["torch.nn.functional.linear"]
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
