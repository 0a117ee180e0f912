"""What a rank on a CPU does with memory that it has freed. In processes of their own: the allocator's settings stay."""

import platform
import subprocess
import sys

import pytest
from support.helpers import REPOSITORY

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's"),
    pytest.mark.real_start,  # a fork has its parent's heap
]

FREES_LARGE_BLOCKS = """
import sys
from pathlib import Path
from fd_scale.parallel.host_memory import keep_little_freed, release_freed

def resident():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) // 1024

def blocks():
    return [(bytearray(b"x") * (4 << 20), bytearray(b"x") * 4000) for _ in range(40)]

{first}
earlier = [few for _, few in blocks()]  # glibc keeps blocks of this size in its heap once some of them were freed
before = resident()
small = [few for _, few in blocks()]  # they lie between the large ones, which are free again
{then}
print(resident() - before)
"""


def kept(first: str = "", then: str = "") -> int:
    """MiB that a process still has of 160 that it has freed."""
    program = FREES_LARGE_BLOCKS.format(first=first, then=then)
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_blocks_stay_by_default():
    assert kept() > 100  # or there is nothing left to do here


def test_large_blocks_return_as_they_are_freed():
    assert kept(first="keep_little_freed()") < 10


def test_all_that_is_freed_returns_when_asked():
    assert kept(then="release_freed()") < 10
