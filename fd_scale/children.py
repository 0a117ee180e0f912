"""Child processes that end with the process that started them, however that one ends: kill -9 leaves none behind.

Without this a worker notices only when it next asks for work, or never: one that waits for room in a pipe to the dead
process waits for as long as a sibling holds the other end.

A leaf: every package may import it, it imports nothing of ours.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
POLL_SECONDS = 0.5
_libc = ctypes.CDLL(None)  # before any fork, so that a child has nothing left to load


class EndWithParent:
    """Make it in the parent, call it first thing in every forked child; from then on the child dies when it does.

    Also a `worker_init_fn` of torch's DataLoader.
    """

    def __init__(self, then: Callable[..., Any] | None = None):
        """`then`: called after it, with the same arguments."""
        self.parent = os.getpid()
        # The kernel's signal comes when the thread that forked ends; only the main one lasts as long as its process.
        self.lasting = threading.get_native_id() == self.parent
        self.then = then

    def __call__(self, *arguments: Any) -> None:
        if not (self.lasting and _ask_kernel()):
            threading.Thread(target=self._watch, daemon=True).start()
        if os.getppid() != self.parent:  # it ended before anything was asked
            os._exit(1)
        if self.then is not None:
            self.then(*arguments)

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)


def _ask_kernel() -> bool:
    """Whether the kernel will kill this process with its parent, even inside a decoder; Linux can."""
    prctl = getattr(_libc, "prctl", None)
    return prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
