"""Warm processes are what real ones are, where a program can tell. That a real run has the losses of a warm one is
`tests/tasks/test_distill_runs.py::test_started_for_real_it_computes_the_same`.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import warm
from support.helpers import REPOSITORY

LOOK = """
import json, os, signal, sys, tempfile
print(json.dumps({
    "words": sys.argv, "first": sys.path[0], "folder": os.getcwd(), "pid": os.getpid() > 0,
    "group": os.getpgrp() == os.getpid(), "session": os.getsid(0) == os.getpid(),
    "environment": {k: v for k, v in os.environ.items() if not k.startswith(("FD_SCALE_TEST", "LC_"))},
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "terminate": str(signal.getsignal(signal.SIGTERM)), "temporary": tempfile.gettempdir(), "input": sys.stdin.read(),
}))
print("said", file=sys.stderr)
"""
ENDS = {
    "0": "pass",
    "7": "import sys; sys.exit(7)",
    "1, a bug": "raise KeyError('x')",
    "1, with a line": "import sys; sys.exit('no')",
    "255": "import sys; sys.exit(-1)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)",
    "bad input": "from fd_scale.cli import main; main(['export', '/nowhere', '/tmp/never'])",
    "aborted": "import os; os.abort()",
    "exit function": "import atexit, os; atexit.register(lambda: os._exit(5))",
    "thread": "import threading, time, os; threading.Thread(target=lambda: (time.sleep(0.2), os._exit(6))).start()",
}


def both(command: list[str], **options) -> list[subprocess.CompletedProcess]:
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    with warm.real():
        really = subprocess.run(command, **options)
    return [really, subprocess.run(command, **options)]


@pytest.mark.parametrize("form", ["-c", "-m", "script"])
def test_a_warm_program_finds_what_a_real_one_finds(form, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    words = {"-c": ["-c", LOOK], "-m": ["-m", "look"], "script": [str(tmp_path / "look.py")]}[form]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "MINE": "1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *words, "one", "two words"]
    really, warmly = both(
        command, cwd=tmp_path, env=environment, input="given", process_group=0 if form == "-c" else None
    )
    found = [json.loads(done.stdout) for done in (really, warmly)]
    for seen in found:  # -m gives the path of what it found, in its own spelling
        seen["words"][0] = os.path.basename(seen["words"][0]).removesuffix(".py")
    assert found[0] == found[1]
    assert found[0]["group"] == (form == "-c")
    assert (really.stderr, warmly.stderr) == ("said\n", "said\n")


def test_a_session_of_its_own():
    code = "import os; print(os.getsid(0) == os.getpid() == os.getpgrp())"
    done = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("ending", ENDS)
def test_every_end_has_the_status_and_the_last_line_of_a_real_one(ending):
    really, warmly = both([sys.executable, "-c", ENDS[ending]])
    assert warmly.returncode == really.returncode
    assert warmly.stderr.splitlines()[-1:] == really.stderr.splitlines()[-1:] or ending == "aborted"


def test_a_signal_ends_it_and_a_limit_of_time_holds():
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=-1
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()


def test_a_folder_that_is_not_there_is_an_error_at_the_start(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        subprocess.run([sys.executable, "-c", "pass"], cwd=tmp_path / "nowhere")


def test_what_is_started_from_a_warm_program_is_warm_and_in_the_process_list(tmp_path):
    (tmp_path / "inner.py").write_text(
        "import os, sys\n"
        "words = open(f'/proc/{os.getpid()}/cmdline').read().strip('\\0').split()\n"
        "print('deepspeed' in sys.modules, words[-1])\n"
    )
    (tmp_path / "outer.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, sys.argv[1], 'mark'], check=True)\n"
    )
    words = [sys.executable, str(tmp_path / "outer.py"), str(tmp_path / "inner.py")]
    assert subprocess.run(words, capture_output=True, text=True).stdout == "True mark\n"


@pytest.mark.parametrize("stack", ["main", "downstream"])
def test_the_server_forks_from_one_thread_without_a_process_group(stack):
    """A second thread's locks would stay locked in a fork for ever, and so would the team of an OpenMP loop."""
    if stack == "downstream":
        pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")
    report = warm.ask("report", stack)
    assert report["threads"] == 1
    assert report["process_group"] is False


def test_a_fork_can_use_several_threads_of_torch():
    code = (
        "import torch; torch.set_num_threads(2); a = torch.rand(1200, 1200); (a @ a).sum().item(); "
        "torch.rand(10**6).sum().item(); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2\n", done.stderr


def test_the_tests_of_this_file_start_from_the_checkout():
    done = subprocess.run(
        [sys.executable, "-c", "import fd_scale; print(fd_scale.__file__)"], capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(REPOSITORY)
