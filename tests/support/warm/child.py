"""What a fork of the warm server does to be the program that was asked for, and to end as it would have ended."""

import atexit
import contextlib
import faulthandler
import os
import random
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import setproctitle

from support.warm import ACCOUNT, ADDRESS, install

RESTORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


def become(request: dict[str, Any], folder: Path, server_path: list[str]) -> Callable[[], object]:
    """Make this fork what `exec` would have made of it.

    Args:
        request: what `support.warm.Popen` asked for.
        folder: of the servers' sockets.
        server_path: entries of `sys.path` that are the server's alone.

    Returns:
        The program, for `end` to run at the top of the stack.
    """
    try:
        if request["new_session"]:
            os.setsid()
        elif request["process_group"] >= 0:
            os.setpgid(0, request["process_group"])
        for number, stream in enumerate(request["streams"]):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["cwd"])
        environment = request["environment"]
        os.environ.clear()
        os.environ.update(environment)
        os.environ[ADDRESS], os.environ[ACCOUNT] = str(folder), request["account"]
        install()
        signal.set_wakeup_fd(-1)
        for number in RESTORED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rank = f"RANK={environment['RANK']} " if "RANK" in environment else ""
        title = rank + " ".join(request["command"])
        setproctitle.setproctitle(title.encode(errors="replace").decode())  # a word need not be UTF-8
    except Exception:
        os.write(request["told"], traceback.format_exc().encode())
        os._exit(127)
    os.close(request["told"])
    _begin_afresh(environment)
    return _program(request["program"], server_path, environment.get("PYTHONPATH", ""))


def _begin_afresh(environment: dict[str, str]) -> None:
    """What a new interpreter draws or reads for itself."""
    import numpy
    import torch

    random.seed()
    numpy.random.seed()
    tempfile.tempdir = None
    threads = environment.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else len(os.sched_getaffinity(0)))
    if environment.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()


def _program(words: list[str], server_path: list[str], python_path: str) -> Callable[[], object]:
    base = [entry for entry in sys.path[1:] if entry not in server_path]
    path = [entry for entry in python_path.split(os.pathsep) if entry]
    if words[0] == "-m":
        _, module, *arguments = words
        sys.argv = [module, *arguments]
        sys.path[:] = [os.getcwd(), *path, *base]
        return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)
    if words[0] == "-c":
        _, code, *arguments = words
        sys.argv = ["-c", *arguments]
        sys.path[:] = ["", *path, *base]
        return lambda: exec(compile(code, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    script, *arguments = words
    sys.argv = [script, *arguments]
    sys.path[:] = [os.path.dirname(os.path.abspath(script)), *path, *base]
    return lambda: runpy.run_path(script, run_name="__main__")


def end(program: Callable[[], object]) -> NoReturn:
    """Runs the program, and ends as an interpreter does: threads, exit functions, streams, status."""
    status = 0
    try:
        program()
    except SystemExit as asked:
        if isinstance(asked.code, int):
            status = asked.code & 0xFF
        elif asked.code is not None:
            print(asked.code, file=sys.stderr)
            status = 1
    except BaseException as error:
        traceback.print_exc()
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
