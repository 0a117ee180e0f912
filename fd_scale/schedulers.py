"""Ranks that Slurm's `srun` or MPI's `mpirun` started, in the variables of torchrun, the one contract that we know.

`srun` says everything. MPI's launchers do not say where the ranks meet, so MASTER_ADDR and MASTER_PORT have to be set
with them. What is set already is kept; where RANK is set, nobody asks here.

Source: the manual pages of srun and sbatch; the environments of Open MPI 4 and 5, of MPICH's Hydra, which Intel MPI
uses as well, and of MVAPICH; what DeepSpeed's launchers pass on to them. Leaves out: ranks of several Slurm steps or of
heterogeneous jobs, which need RANK; a `--distribution` that does not begin on the step's first host, which needs
MASTER_ADDR; and launchers that say none of this, whose tasks only the lease of the run folder keeps apart.

A leaf: imports `errors` alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fd_scale.errors import BadInput

PORTS = range(20_000, 32_000)
"""Below those that Linux hands out by itself."""
STEPS = 8
"""Ports of a job, so that its next steps and the next jobs have others."""
OF_RANKS = re.compile(
    r"SLURM_(PROCID|LOCALID|NODEID|GTIDS|TASK_PID|NTASKS|NPROCS|TASKS_PER_NODE|STEPID|STEP_\w+)"
    r"|OMPI_COMM_WORLD_\w+|MV2_COMM_WORLD_\w+|PMIX?_\w+|MPI_LOCAL\w+"
    r"|PET_(NNODES|NODE_RANK|NPROC_PER_NODE|MASTER_ADDR|MASTER_PORT)"
)
"""What says which rank a process is; it does not hold for the processes that a rank starts."""
BY_HAND = "set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or start with `fd-scale launch`"


@dataclass(frozen=True)
class Launcher:
    name: str
    rank: str
    local_ranks: tuple[str, ...]
    """One of them is there."""
    world: str


SLURM = Launcher("Slurm", "SLURM_PROCID", ("SLURM_LOCALID",), "SLURM_STEP_NUM_TASKS")
# A batch script has SLURM_PROCID and SLURM_NTASKS as well, and is one process; only a step of srun has this world.
MPI = (
    Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_LOCAL_RANK",), "OMPI_COMM_WORLD_SIZE"),
    Launcher("MVAPICH", "MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_LOCAL_RANK",), "MV2_COMM_WORLD_SIZE"),
    Launcher("MPICH or Intel MPI", "PMI_RANK", ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"), "PMI_SIZE"),
)


def torchrun_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of this process; empty where it was started alone.

    Raises:
        BadInput: what its launcher says is no number, or it says too little; the line names what to set.
    """
    started = _started(environment)
    if started is None:
        _refuse_no_rank(environment)
        return {}
    launcher, rank, world = started
    meeting = _meeting_of_step(environment) if launcher is SLURM else {}
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(_local_rank(launcher, environment)),
        "WORLD_SIZE": str(world),
        **{name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if environment.get(name)},
    }
    variables = {**meeting, **variables}
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in variables]
    if lacking:
        raise BadInput(
            f"{launcher.name} started {world} ranks and does not say where they meet: set {' and '.join(lacking)} for "
            f"all of them, rank 0's host and a free port there (mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 of "
            f"Open MPI, mpiexec -genv NAME VALUE of MPICH, lines NAME=VALUE in the file .deepspeed_env of deepspeed), "
            f"or start with `fd-scale launch`"
        )
    return variables


def node_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, torchrun's words for one node of several, of a
    process that launches ranks and is the only task of its node in a Slurm step; empty where it was started alone.

    Raises:
        BadInput: several were started that would each launch the same ranks.
    """
    alone = "leave `launch` out, or give each node's process --nnodes, --node-rank and --master-addr"
    if "RANK" in environment and environment.get("WORLD_SIZE", "1") not in ("", "1"):
        raise BadInput(
            f"RANK={environment['RANK']} and WORLD_SIZE={environment['WORLD_SIZE']} are set, as torchrun and deepspeed "
            f"do, and each of these processes would launch ranks of its own: {alone}"
        )
    started = _started(environment)
    if started is None:
        return {}
    launcher, rank, world = started
    if launcher is not SLURM:
        raise BadInput(f"{launcher.name} started {world} processes, and each would launch ranks of its own: {alone}")
    nodes = len(hosts_of(environment.get("SLURM_STEP_NODELIST", "")))
    if nodes != world:
        raise BadInput(
            f"srun started {world} tasks on {nodes} nodes, and each would launch ranks of its own: give srun "
            f"--ntasks-per-node=1, or leave `launch` out"
        )
    meeting = _meeting_of_step(environment)
    return {
        "PET_NNODES": str(nodes),
        "PET_NODE_RANK": str(_number({"SLURM_NODEID": str(rank), **environment}, "SLURM_NODEID")),
        "PET_MASTER_ADDR": meeting.get("MASTER_ADDR") or environment["MASTER_ADDR"],
        "PET_MASTER_PORT": meeting.get("MASTER_PORT") or environment["MASTER_PORT"],
    }


def hosts_of(node_list: str) -> list[str]:
    """The hosts of a Slurm node list such as `node[001-003,7],gpu-a` or `rack[1-2]n[01-16]`, in its order.

    Raises:
        BadInput: it is no node list.
    """
    hosts: list[str] = []
    for entry in _entries(node_list):
        names = [""]
        for text, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", entry):
            parts = [text] if text else [number for part in ranges.split(",") for number in _numbers(part, node_list)]
            names = [name + part for name in names for part in parts]
        hosts += names
    return hosts


def _started(environment: Mapping[str, str]) -> tuple[Launcher, int, int] | None:
    """Who started this process among several, with its number and theirs."""
    slurm = _place(SLURM, environment)
    mpi = next(((launcher, place) for launcher in MPI if (place := _place(launcher, environment))), None)
    # Below an mpirun in a Slurm job, Slurm's variables are those of the daemons that mpirun started on each host.
    if slurm and (mpi is None or mpi[1] == slurm):
        return SLURM, *slurm
    return (mpi[0], *mpi[1]) if mpi else None


def _refuse_no_rank(environment: Mapping[str, str]) -> None:
    """Raises BadInput where this is one of several tasks and nobody says which: each would be a run of its own."""
    world = environment.get("WORLD_SIZE", "")
    if "RANK" not in environment and re.fullmatch("[0-9]+", world) and int(world) > 1:
        raise BadInput(f"WORLD_SIZE={world} is set in the environment, and RANK is not; {BY_HAND}")


def _place(launcher: Launcher, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and number of ranks, where there are several of that launcher's."""
    if launcher.world not in environment:
        return None
    world = _number(environment, launcher.world)
    if world <= 1:
        return None
    rank = _number(environment, launcher.rank)
    if rank >= world:
        raise BadInput(f"{launcher.rank}={rank} with {launcher.world}={world} in the environment; {BY_HAND}")
    return rank, world


def _local_rank(launcher: Launcher, environment: Mapping[str, str]) -> int:
    if len(environment.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and environment.get("CUDA_VISIBLE_DEVICES"):
        return 0  # bound to one device of its own (srun --gpus-per-task=1), which it sees as the first
    for name in ("LOCAL_RANK", *launcher.local_ranks):
        if name in environment:
            return _number(environment, name)
    raise BadInput(
        f"{launcher.name} does not say which rank of its host this is (there is no "
        f"{' or '.join(launcher.local_ranks)}); {BY_HAND}"
    )


def _meeting_of_step(environment: Mapping[str, str]) -> dict[str, str]:
    """The same on every rank of a step, and another for every step."""
    meeting = {}
    if not environment.get("MASTER_ADDR"):
        hosts = hosts_of(environment.get("SLURM_STEP_NODELIST", ""))
        if not hosts:
            raise BadInput(f"SLURM_STEP_NODELIST names no host; set MASTER_ADDR to the host of rank 0, or {BY_HAND}")
        meeting["MASTER_ADDR"] = hosts[0]
    if not environment.get("MASTER_PORT"):
        number = STEPS * _number(environment, "SLURM_JOB_ID") + _number(environment, "SLURM_STEP_ID")
        meeting["MASTER_PORT"] = str(PORTS[number % len(PORTS)])
    return meeting


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None:
        raise BadInput(f"{name} is not set, though other variables of its launcher are; {BY_HAND}")
    if not re.fullmatch(r"[0-9]{1,18}", value.strip()):
        raise BadInput(f"{name}={value!r} in the environment is no number; {BY_HAND}")
    return int(value)


def _entries(node_list: str) -> list[str]:
    """Cut at the commas that stand outside of brackets."""
    entries = re.findall(r"(?:[^\[\],]|\[[^\[\]]*\])+", node_list)
    if ",".join(entries) != node_list:
        raise _no_node_list(node_list)
    return entries


def _numbers(part: str, node_list: str) -> list[str]:
    """`001-003` -> 001, 002, 003; with as many digits as the first has."""
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
    if not found or len(part) > 40:
        raise _no_node_list(node_list)
    first, last = found[1], found[2] or found[1]
    if not int(first) <= int(last) < int(first) + 1_000_000:
        raise _no_node_list(node_list)
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _no_node_list(node_list: str) -> BadInput:
    return BadInput(f"{node_list!r} is no node list of Slurm, such as node[001-003]; set MASTER_ADDR to rank 0's host")
