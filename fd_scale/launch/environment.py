"""What a rank finds in its environment, and the facts about this machine that it is made of.

The variables are those of torchrun, so that a program needs to know only one contract.
"""

import errno
import os
import random
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fd_scale.errors import BadInput
from fd_scale.exits import ERROR_FOLDER
from fd_scale.interfaces import gloo_variables
from fd_scale.schedulers import OF_RANKS, PORTS

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
# What another host must have as here, and by what ranks there reach stores, hubs and trackers. It is on no command
# line, so that secrets may be among it.
FORWARDED = re.compile(
    r"PYTHONPATH|OMP_NUM_THREADS|(FD_SCALE|NCCL|TORCH_NCCL|GLOO|HF|AWS|AZURE|GOOGLE|FSSPEC|MLFLOW|WANDB)_[A-Z0-9_]+"
)
NOT_FORWARDED = re.compile(rf"{ERROR_FOLDER}|FD_SCALE_SSH")


@dataclass(frozen=True)
class Node:
    """One machine's share of the ranks: `first_rank` to `first_rank + nproc - 1` of `world_size`."""

    host: str
    nproc: int
    first_rank: int
    world_size: int
    master_address: str
    master_port: int
    peer: str = ""
    """A name of another machine, where there is one."""


def rank_environment(node: Node, local_rank: int, error_folder: Path) -> dict[str, str]:
    threads = max(1, len(os.sched_getaffinity(0)) // node.nproc)
    return {
        **(gloo_variables(node.peer, required=True) if node.peer else {}),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves at least Python's stack in the log
        **{name: value for name, value in os.environ.items() if not OF_RANKS.fullmatch(name)},
        "RANK": str(node.first_rank + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(node.world_size),
        "LOCAL_WORLD_SIZE": str(node.nproc),
        "MASTER_ADDR": node.master_address,
        "MASTER_PORT": str(node.master_port),
        ERROR_FOLDER: str(error_folder),
    }


def refuse_local_rank(words: Sequence[str]) -> None:
    """Refuse the option by which older launchers give each rank its number, before or behind the verb."""
    for word in words:
        if word == "--":
            return  # what follows is for what is launched
        name = word.partition("=")[0]
        if name in ("--local-rank", "--local_rank"):
            raise BadInput(
                f"{word} comes from the launcher and is not needed, LOCAL_RANK says the same: give "
                f"torch.distributed.launch --use-env, deepspeed --no_local_rank, or start with torchrun or "
                f"`fd-scale launch`"
            )


def forwarded_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(environment.items())
        if FORWARDED.fullmatch(name) and not NOT_FORWARDED.fullmatch(name)
    }


def default_nproc() -> int:
    """Count the ranks: one a visible GPU, one without any. Asks neither torch nor the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name.strip() for name in visible.split(",")]
        # CUDA ignores what follows the first device that cannot exist.
        count = next((i for i, name in enumerate(devices) if name in ("", "-1", "NoDevFiles")), len(devices))
    else:
        count = len(list(NVIDIA_GPUS.iterdir())) if NVIDIA_GPUS.is_dir() else 0
    return max(1, count)


def require_free_port(port: int) -> None:
    """Refuse a port that c10d's store could not bind: on every address; past connections do not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise BadInput(
                f"port {port} on {socket.gethostname()} {reason}: choose another with --master-port, or leave it out"
            ) from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def likely_free_port() -> int:
    """Choose a port for another machine, where we cannot ask."""
    return random.choice(PORTS)
