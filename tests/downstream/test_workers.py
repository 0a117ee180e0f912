"""MMEngine's loaders under our runner: their workers end with the rank that forked them."""

import ctypes
import signal

from mmengine.dataset import BaseDataset

from fd_scale_downstream.runner import FDRunner

PR_GET_PDEATHSIG = 2


class Asking(BaseDataset):
    """Its samples are the signal that the kernel will send to the process that reads them."""

    def __init__(self):
        super().__init__(lazy_init=True)
        self._fully_initialized = True

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> int:
        found = ctypes.c_int()
        assert ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(found)) == 0
        return found.value


def test_a_worker_of_a_loader_ends_with_its_rank():
    loader = FDRunner.build_dataloader(
        {
            "dataset": Asking(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 1,
            "num_workers": 2,
            "collate_fn": {"type": "default_collate"},
        },
        seed=0,
    )
    assert [int(batch) for batch in loader] == [signal.SIGKILL] * 2
