"""Shared by tests; apart from conftest.py, because every folder's conftest answers to that name."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int, remounted: str = "") -> Iterator[None]:
    """A file system of that size, really mounted on `folder`. `remounted`: with another option, such as ro, then."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        if remounted:
            subprocess.run(["mount", "-o", f"remount,{remounted}", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def tiny_arguments(shards: Path, teacher_file: Path, folder: Path) -> list[str]:
    """`distill` arguments of a run of eight short steps, on every code path of the big one."""
    return [
        "distill",
        str(REPOSITORY / "configs/demo/swin_v2.yaml"),
        f"data.train={shards}",
        "data.view.image_size=32",
        f"run.folder={folder}",
        f"teacher.spec=file:{teacher_file}",
        "student.drop_path=0.2",
        "train.global_batch=8",
        "train.micro_batch=4",
        "schedule.steps=8",
        "schedule.warmup_steps=2",
        "run.save_every=2",
        "run.log_every=1",
    ]
