"""One node of several, where `fd-scale launch` is started once on each: by hand, by Slurm, by Kubernetes.

What the options leave out is in the environment: torchrun's own variables, which Kubeflow's Trainer sets (PET_NNODES,
PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT, PET_NPROC_PER_NODE); the index of a Pod of a Kubernetes Indexed Job,
where PET_NNODES is set; or a Slurm step with one task for each node (`schedulers.node_variables`).

The same number of ranks on every node is assumed, and checked by nobody: node R has the ranks R * nproc to
(R + 1) * nproc - 1. Leaves out: starting anything elsewhere, which a hostfile does. Each launcher only ends its own
ranks; those of the other nodes lose their peer and end with 75.
"""

import os
import re
import socket
from collections.abc import Mapping
from typing import Annotated

from fd_scale.errors import BadInput
from fd_scale.fields import Range
from fd_scale.launch.environment import Node, default_nproc
from fd_scale.schedulers import node_variables

DEFAULT_PORT = 29_500  # as torchrun's, because nobody can tell the other nodes of a free one
MOST_NODES, MOST_PROCESSES = 2**16, 1024
Nodes = Annotated[int, Range(1, MOST_NODES)]
NodeRank = Annotated[int, Range(0, MOST_NODES - 1)]
ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[?[0-9A-Fa-f:.]+(%\w+)?\]?")
NEEDED = "several nodes take --nnodes, --node-rank and --master-addr, the same --nproc on all"


def this_node(
    nproc: int | None,
    nnodes: int | None,
    node_rank: int | None,
    master_addr: str | None,
    master_port: int | None,
    environment: Mapping[str, str],
) -> Node | None:
    """This machine's share of the ranks; None where it is the only machine.

    Args:
        nproc, nnodes, node_rank, master_addr, master_port: the options; None where one was not given.

    Raises:
        BadInput: only some are known, or one of them cannot be.
    """
    if nnodes is None and not environment.get("PET_NNODES"):
        environment = {**environment, **node_variables(environment)}
    count = _number("--nnodes", nnodes, environment, "PET_NNODES", low=1, high=MOST_NODES)
    if count is None:
        for option, value in (("--node-rank", node_rank), ("--master-addr", master_addr)):
            if value is not None:
                raise BadInput(f"{option} {value} is given, and --nnodes is not: {NEEDED}")
        return None
    if node_rank is None and not environment.get("PET_NODE_RANK"):
        environment = {**environment, "PET_NODE_RANK": environment.get("JOB_COMPLETION_INDEX", "")}
    rank = _number("--node-rank", node_rank, environment, "PET_NODE_RANK", low=0, high=count - 1)
    if count == 1:
        return None
    if rank is None:
        raise BadInput(
            f"{count} nodes, and which one this is, is not given: --node-rank from 0 to {count - 1}; {NEEDED}"
        )
    address = master_addr or environment.get("PET_MASTER_ADDR")
    if not address:
        raise BadInput(f"{count} nodes, and where they meet is not given: --master-addr, a name of node 0; {NEEDED}")
    if not ADDRESS.fullmatch(address):
        given = "--master-addr" if master_addr else "PET_MASTER_ADDR"
        raise BadInput(f"{given} {address!r} is neither a host nor an address; give a name of node 0")
    port = _number("--master-port", master_port, environment, "PET_MASTER_PORT", low=1, high=65_535) or DEFAULT_PORT
    nproc = nproc or ranks_per_node(environment)
    return Node(socket.gethostname(), nproc, rank * nproc, count * nproc, address, port, peer=address)


def ranks_per_node(environment: Mapping[str, str]) -> int:
    """PET_NPROC_PER_NODE, where it is set with PET_NNODES; otherwise one rank a visible GPU, or one."""
    value = environment.get("PET_NPROC_PER_NODE", "").strip()
    if not environment.get("PET_NNODES") or value in ("", "auto", "gpu"):
        return default_nproc()
    if value == "cpu":
        return len(os.sched_getaffinity(0))
    return _whole("PET_NPROC_PER_NODE", value, 1, MOST_PROCESSES)


def _number(
    option: str, given: int | None, environment: Mapping[str, str], variable: str, *, low: int, high: int
) -> int | None:
    if given is None:
        text = environment.get(variable)
        return _whole(variable, text, low, high) if text else None
    if not low <= given <= high:
        raise BadInput(f"{option} {given} is no number from {low} to {high}; {NEEDED}")
    return given


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not low <= int(text) <= high:
        raise BadInput(f"{name}={text[:40]!r} in the environment is no whole number from {low} to {high}; {NEEDED}")
    return int(text)
