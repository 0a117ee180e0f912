"""The host's memory that this process has freed and its allocator keeps."""

import contextlib
import ctypes


def release_freed() -> None:
    """Give freed memory back to the system, where the C library can (glibc).

    glibc keeps freed blocks below 32 MiB for itself, even gigabytes of them: the tensors of a teacher's file once they
    are copied, and its fp32 weights once they are bf16. Training's large flat tensors find no room there.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
