"""Output of this process, printed and logged without secrets (`fd_scale.redaction`).

Libraries quote addresses in messages of their own, in tracebacks and in threads that nobody here waits for. So a
process of ours, once and for all, hides secrets in whatever Python code writes to its two streams and to its loggers.
Leaves out what native code writes by itself.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

from fd_scale.redaction import redacted_text, remember_environment


class Redacted:
    """Text stream that hides secrets in what is written to it, and otherwise behaves as the stream that it wraps."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RedactingFormatter(logging.Formatter):
    """Formatter that hides secrets in a log file, for callers who use the package outside of `fd-scale`."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted_text(super().format(record))


def guard_output() -> None:
    """Hide secrets in all that this process prints or logs from now on. A repetition does nothing."""
    remember_environment()
    guard_logs()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Redacted):
            setattr(sys, name, Redacted(stream))


def guard_logs() -> None:
    """Hide secrets in the handlers of every logger, the part of `guard_output` for logs. A repetition does nothing."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Records):
        logging.setLogRecordFactory(_Records(make))


class _Records:
    """Makes the records of all loggers."""

    def __init__(self, make: Callable[..., logging.LogRecord]):
        self._make = make

    def __call__(self, *given: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*given, **named)
        with contextlib.suppress(Exception):  # a message that does not fit its arguments: the handler reports it
            record.msg, record.args = redacted_text(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redacted_text(logging.Formatter().formatException(record.exc_info))
        return record
