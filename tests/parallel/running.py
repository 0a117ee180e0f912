"""Running a check of a program on real ranks."""

import sys

from fd_scale.launch import launch


def check(program: str, *words: object, nproc: int = 2) -> int:
    """The exit code of `python -m program words...` on `nproc` processes."""
    return launch([str(word) for word in words], nproc=nproc, program=(sys.executable, "-m", program))
