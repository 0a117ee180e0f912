"""The exit contract: how a process says whether a restart can help.

0   done, or cleanly preempted, which FD_SCALE_STOPPED_EXIT=75 makes 75 (`fd_scale.stops.stopped_exit`)
2   bad input: `BadInput`, one line that names the value, the place and the fix
75  worth a retry: `Retry`, a lost peer or failing storage (EX_TEMPFAIL of sysexits.h)
1   a bug: any other exception, with its traceback

A leaf: every package may import it, it imports the other leaf `redaction` alone.
"""

from fd_scale.redaction import redacted_text

EXIT_BAD_INPUT = 2
EXIT_RETRY = 75
EXIT_BUG = 1
LONGEST_LINE = 2000
"""Letters of a line on an error."""


class Expected(Exception):
    """An event that users must expect; ends the process with one line and `exit_code`."""

    exit_code = EXIT_BUG

    def __init__(self, line: str, *, agreed: bool = False):
        """`agreed`: every rank raises the same error, so that rank 0 alone needs to print it. Secrets in the line are
        hidden."""
        text = " ".join(redacted_text(line).split())
        if len(text) > LONGEST_LINE:  # it may quote text of any length, and the fix is at its end
            text = f"{text[: LONGEST_LINE // 2]} ... {text[-LONGEST_LINE // 2 :]}"
        super().__init__(text)
        self.agreed = agreed


class BadInput(Expected):
    """The user must change something; trying again as it is cannot help."""

    exit_code = EXIT_BAD_INPUT


class Retry(Expected):
    """The same command may well succeed: a peer was lost, storage did not answer."""

    exit_code = EXIT_RETRY
