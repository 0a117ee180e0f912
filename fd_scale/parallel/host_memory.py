"""Memory of the host that this process has freed and its allocator keeps (glibc; nothing is done elsewhere)."""

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of <malloc.h>
LARGE = 2**20
"""Bytes of a block that returns to the system as soon as it is freed."""


def keep_little_freed() -> None:
    """Give large blocks back as soon as they are freed; for ranks whose tensors lie in host memory.

    glibc begins with mapping blocks above 128 KiB apart and raises that to 32 MiB as such blocks are freed. Weights and
    activations of all sizes then share one heap, with gaps between them that the next tensor does not fit into: a
    sixth of the memory of a rank that trains SwinV2-B. Each thread that communicates or saves has a heap more.
    Costs a page fault for each page of a large tensor. A thread's heap that is there already stays.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_ARENA_MAX, 1)


def release_freed() -> None:
    """Give freed memory back to the system, as far as it lies in whole pages.

    After construction: the tensors of a teacher's file once they are copied, and its fp32 weights once they are bf16.
    Before each update: what activations left between the blocks of the heap. Training's large flat tensors find no room
    in either. An update pays some 20 ms for it.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
