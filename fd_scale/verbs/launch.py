"""`launch`: the ranks of a verb. Its command line is that of `fd_scale.launch`, which downstream packages share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fd_scale import launch as launcher
from fd_scale.fields import Processes
from fd_scale.launch import Port
from fd_scale.launch.heartbeat import LOST_AFTER_SECONDS, LostAfter
from fd_scale.launch.nodes import NodeRank, Nodes
from fd_scale.verbs.plan import needs
from fd_scale.verbs.verb import CommandLine, verb


@verb(
    "fd-scale launch --nproc 2 -- distill configs/demo/swin_v2.yaml run.folder=runs/mine\n"
    "  fd-scale launch --hostfile hosts.txt -- distill CONFIG     # lines: HOST slots=N, as for DeepSpeed\n"
    "  fd-scale launch --nnodes 2 --node-rank 0 --master-addr NODE0 --nproc 8 -- distill CONFIG     # on each node\n"
    "  fd-scale launch --slurm --nodes 4 --nproc 8 --time 1-00:00:00 -- distill CONFIG     # prints an sbatch script",
    command_line=CommandLine(launcher.add_arguments, partial(launcher.run, plan=needs)),
)
def launch(
    command: Sequence[str],
    *,
    nproc: Processes | None = None,
    hostfile: str | Path | None = None,
    master_port: Port | None = None,
    nnodes: Nodes | None = None,
    node_rank: NodeRank | None = None,
    master_addr: str | None = None,
    lost_after: LostAfter = LOST_AFTER_SECONDS,
) -> int:
    """Start a verb on several processes of this machine, on the hosts of a file, or as one node of several.

    Returns:
        The exit code of the first rank that failed, or 0.
    """
    return launcher.launch(
        list(command),
        nproc=nproc,
        hostfile=Path(hostfile) if hostfile else None,
        master_port=master_port,
        nnodes=nnodes,
        node_rank=node_rank,
        master_addr=master_addr,
        lost_after=lost_after,
    )
