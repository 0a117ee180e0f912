"""The end of a start that failed, in the log of the rank that failed: the launcher's line is gone with its terminal."""

import contextlib
import logging
from collections.abc import Iterator

from fd_scale.errors import EXIT_BUG
from fd_scale.exits import LostPeer, expected_error

log = logging.getLogger("fd_scale")

FAILED = "this start failed with exit code "
LOST = "it lost its peers, whose failure tells more: "


@contextlib.contextmanager
def failure_logged() -> Iterator[None]:
    """Log what ends the block, and let it pass."""
    try:
        yield
    except Exception as error:
        expected = expected_error(error)
        code = expected.exit_code if expected else EXIT_BUG
        first_line = next(iter(str(error).strip().splitlines()), "")
        line = str(expected) if expected else f"{type(error).__name__}: {first_line}"
        log.error("%s%d: %s%s", FAILED, code, LOST if isinstance(expected, LostPeer) else "", line)
        raise
