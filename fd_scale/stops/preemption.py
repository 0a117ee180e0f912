"""SIGTERM, SIGHUP and Ctrl-C ask for a stop; the loop finishes the step, saves and ends with 0.

SIGTERM may come more than once (Slurm signals launcher and ranks alike) and means the same each time. A second Ctrl-C
interrupts at once. Under nohup SIGHUP stays ignored. Before the loop is ready, `fd_scale.exits` ends the process.
"""

import signal
from types import FrameType


class StopRequest:
    """`asked` becomes true with the first signal; ranks agree on it in the loop, never by themselves."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
