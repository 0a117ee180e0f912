"""A test that leaves something behind fails, and so does one that changes what all share; in a pytest of its own."""

import os
import subprocess
import sys

import pytest

from support.helpers import REPOSITORY

LEAKS = {
    "environment": "import os; os.environ['MINE'] = '1'",
    "working directory": "import os; os.chdir('/')",
    "handlers of signals": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "process group": "import torch.distributed as d, tempfile; "
    "d.init_process_group('gloo', init_method=f'file://{tempfile.mkdtemp()}/x', rank=0, world_size=1)",
    "threads of torch": "import torch; torch.set_num_threads(3)",
    "type of new tensors": "import torch; torch.set_default_dtype(torch.float64)",
    "torch.nn.functional.linear": "import torch; torch.nn.functional.linear = print",
    "children": "import multiprocessing, time; "
    "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()",
}
SHARED = """
from support.session import once
def test_one():
    once("mine", lambda folder: (folder / "x").write_text("1"))
def test_two():
    {change}
"""


def run_pytest(folder, text: str) -> subprocess.CompletedProcess:
    (folder / "test_it.py").write_text(text)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "FD_SCALE_TEST"))}
    environment["PYTHONPATH"] = str(REPOSITORY / "tests")
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "support.session",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--rootdir",
        ".",
    ]
    command = [sys.executable, *words, "test_it.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_every_kind_of_leak_is_named_and_does_not_reach_the_next_test(tmp_path):
    tests = ["import torch"]
    for number, code in enumerate(LEAKS.values()):
        tests.append(f"def test_leak_{number}():\n    {code}\ndef test_after_{number}():\n    pass")
    done = run_pytest(tmp_path, "\n".join(tests))
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith(f"{2 * len(LEAKS)} passed"), done.stdout
    assert f" {len(LEAKS)} errors in" in summary, done.stdout
    for name in LEAKS:
        assert f"the test leaves something behind: {name}: " in done.stdout, (name, done.stdout)


@pytest.mark.parametrize(
    ("change", "code"),
    [("pass", 0), ("(once('mine', None) / 'x').write_text('2')", 1), ("(once('mine', None) / 'x').unlink()", 1)],
)
def test_what_is_shared_is_made_once_and_not_changed(tmp_path, change, code):
    done = run_pytest(tmp_path, SHARED.format(change=change))
    assert done.returncode == code, done.stdout + done.stderr
    assert ("changed by a test, though shared: mine" in done.stderr) == bool(code)
