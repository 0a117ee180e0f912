"""The process group: who am I, where do I compute, and how all ranks come to one decision.

Reads the environment that torchrun, `deepspeed --no_local_rank` and `fd-scale launch` set, or what a step of Slurm or
`mpirun` says instead (`fd_scale.schedulers`); without either this is a world of one. Control messages travel over gloo
on the host, so that asking the other ranks never waits for the device.
"""

import contextlib
import logging
import os
import re
import reprlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fd_scale.errors import BadInput, Expected
from fd_scale.exits import LostPeer, expected_error
from fd_scale.interfaces import gloo_variables
from fd_scale.redaction import redacted_text
from fd_scale.schedulers import torchrun_variables

MOST_RANKS = 2**20
LAUNCH = "start with `fd-scale launch` or torchrun, which set it, or without RANK as a world of one"

HOST = re.compile(r"[\w.-]+|\[?[0-9A-Fa-f:.]+(%\w+)?\]?")

_control: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class Ranks:
    rank: int
    local_rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def say(ranks: Ranks, line: str) -> None:
    """To every rank's log, and from rank 0 to the user."""
    line = redacted_text(line)
    logging.getLogger("fd_scale").info(line)
    if ranks.is_first:
        print(line, file=sys.stderr)


def start(timeout_minutes: float = 10) -> Ranks:
    """Join the process group. Collective.

    Raises:
        BadInput: the environment names a rank or a device that does not exist.
    """
    global _control
    if "RANK" not in os.environ:
        os.environ.update(torchrun_variables(os.environ) or _alone())
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    ranks = _from_environment(on_gpu)
    if ranks.world > 1 and os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        os.environ.update(gloo_variables(os.environ["MASTER_ADDR"], required=False))
    if on_gpu:
        torch.cuda.set_device(ranks.device)
    timeout = timedelta(minutes=timeout_minutes)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    _control = dist.new_group(backend="gloo", timeout=timeout) if on_gpu else dist.group.WORLD
    _quiet_deepspeed(timeout)
    return ranks


def finish() -> None:
    """Leave the process group; without this NCCL warns about leaked groups."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: list[float]) -> list[float]:
    """Element-wise sum over all ranks, in fp64 on the host. Collective."""
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=_control)
    return total.tolist()


def add_over_ranks(tensor: Tensor) -> Tensor:
    """The same tensor, now the element-wise sum over all ranks, on its own device. Collective."""
    dist.all_reduce(tensor)
    return tensor


def gather(value: object, group: dist.ProcessGroup | None = None) -> list:
    """Every rank's value, in the order of ranks, on every rank. Collective; for small things."""
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group or _control)
    return values


def from_first(value: object) -> object:
    """Rank 0's value on every rank. Collective; for small things."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def barrier() -> None:
    dist.barrier(group=_control)


@contextlib.contextmanager
def raise_on_all_ranks(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Run a block on every rank; an expected error on any of them, of ours or of the system (a read-only disk), is
    raised on all. Collective at its end.

    Without it the ranks that saw nothing wrong would wait in the next collective for the one that left. Another thread
    than the main one needs a group of its own.
    """
    failure: Expected | None = None
    try:
        yield
    except Exception as error:
        failure = expected_error(error)
        if failure is None or isinstance(failure, LostPeer):
            raise
    for said in gather(failure and (type(failure), str(failure)), group):
        if said:
            kind, line = said
            raise kind(line, agreed=True) from failure


def _from_environment(on_gpu: bool) -> Ranks:
    rank, world = _number("RANK", 0, MOST_RANKS - 1), _number("WORLD_SIZE", 1, MOST_RANKS)
    if rank >= world:
        raise BadInput(f"RANK={rank} with WORLD_SIZE={world} in the environment; {LAUNCH}")
    local_rank = _number("LOCAL_RANK", 0, MOST_RANKS, default=0)
    _number("MASTER_PORT", 0 if world == 1 else 1, 65535)
    if not os.environ.get("MASTER_ADDR"):
        raise BadInput(f"RANK={rank} is set in the environment, and MASTER_ADDR is not; {LAUNCH}")
    if not HOST.fullmatch(os.environ["MASTER_ADDR"]):  # torch's own parser ends in a traceback
        shown = reprlib.repr(os.environ["MASTER_ADDR"])
        raise BadInput(f"MASTER_ADDR={shown} is neither a host nor an address; set it to rank 0's host, or {LAUNCH}")
    if not on_gpu:
        return Ranks(rank, local_rank, world, torch.device("cpu"))
    if local_rank >= torch.cuda.device_count():
        raise BadInput(f"LOCAL_RANK={local_rank}, but this host shows {torch.cuda.device_count()} GPUs; lower --nproc")
    return Ranks(rank, local_rank, world, torch.device("cuda", local_rank))


def _number(name: str, low: int, high: int, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise BadInput(f"RANK={os.environ['RANK']} is set in the environment, and {name} is not; {LAUNCH}")
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise BadInput(f"{name}={text[:40]!r} in the environment is no whole number from {low} to {high}; {LAUNCH}")
    return number


def _quiet_deepspeed(timeout: timedelta) -> None:
    """Initialise DeepSpeed's communication over the group that exists, without its JIT build and its chatter."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On CPU DeepSpeed compiles `shm_comm` at start (over a minute, and fatal without a compiler). It only serves
    # inference; training results are bit-identical without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(timeout=timeout, verbose=False)


def _alone() -> dict[str, str]:
    """The environment of a world of one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
