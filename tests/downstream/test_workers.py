"""Workers of MMEngine's loaders under our runner: they end with their rank, and their death is one line."""

import ctypes
import os
import re
import signal
import subprocess
import sys

from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from fd_scale.errors import Retry
from fd_scale_downstream.runner import FDRunner

PR_GET_PDEATHSIG = 2


class Asking(BaseDataset):
    """Its samples are the signal that the kernel will send to the process that reads them."""

    def __init__(self, samples: int):
        super().__init__(lazy_init=True)
        self._fully_initialized = True
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        found = ctypes.c_int()
        assert ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(found)) == 0
        return found.value


def loader_of_two_workers(samples: int) -> DataLoader:
    return FDRunner.build_dataloader(
        {
            "dataset": Asking(samples),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 1,
            "num_workers": 2,
            "collate_fn": {"type": "default_collate"},
        },
        seed=0,
    )


def test_a_worker_of_a_loader_ends_with_its_rank():
    assert [int(batch) for batch in loader_of_two_workers(2)] == [signal.SIGKILL] * 2


LOSES_A_WORKER = """
import os, signal, sys
import torch
from downstream.test_workers import loader_of_two_workers
from fd_scale.exits import run_to_exit_code

def main():
    loader = loader_of_two_workers(100_000)
    for number, _ in enumerate(loader):
        if number == 5:
            os.kill(torch.multiprocessing.active_children()[0].pid, signal.SIGKILL)

sys.exit(run_to_exit_code(main))
"""


def test_a_worker_that_dies_is_one_line():
    """In a process of its own: torch tells of it from a signal handler."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LOSES_A_WORKER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == Retry.exit_code, ended.stderr
    assert re.search(r"DataLoader worker \(pid \d+\) is killed by signal: Killed", ended.stderr.splitlines()[-1])
    assert "Traceback" not in ended.stderr
