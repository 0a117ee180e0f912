"""Running a check of a program on real ranks: both ends of it."""

import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from fd_scale.exits import run_to_exit_code
from fd_scale.launch import launch
from fd_scale.parallel import ranks as process_group


def check(program: str, *words: object, nproc: int = 2) -> int:
    """The exit code of `python -m program words...` on `nproc` processes."""
    return launch([str(word) for word in words], nproc=nproc, program=(sys.executable, "-m", program))


def run_check(checks: Mapping[str, Callable]) -> NoReturn:
    """What such a program does on each rank: the check that its first word names, with the other words."""

    def main() -> None:
        name, *words = sys.argv[1:]
        checks[name](process_group.start(timeout_minutes=2), *words)

    sys.exit(run_to_exit_code(main))
