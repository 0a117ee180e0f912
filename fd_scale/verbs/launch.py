"""`launch`: the ranks of a verb. Its command line is `fd_scale.launch.options`, which downstream packages share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fd_scale import launch as launcher
from fd_scale.fields import Limit, NotNegative, Positive, Processes
from fd_scale.launch import Port, options
from fd_scale.launch.heartbeat import LOST_AFTER_SECONDS, LostAfter
from fd_scale.launch.nodes import NodeRank, Nodes
from fd_scale.launch.options import Knowledge
from fd_scale.verbs.launched import places_of, work_of
from fd_scale.verbs.plan import needs
from fd_scale.verbs.verb import CommandLine, verb


@verb(
    "fd-scale launch --nproc 2 -- distill configs/demo/swin_v2.yaml run.folder=runs/mine\n"
    "  fd-scale launch --hostfile hosts.txt -- distill CONFIG     # lines: HOST slots=N, as for DeepSpeed\n"
    "  fd-scale launch --nnodes 2 --node-rank 0 --master-addr NODE0 --nproc 8 -- distill CONFIG     # on each node\n"
    "  fd-scale launch --check --hostfile hosts.txt -- distill CONFIG     # starts nothing; says what to fix first\n"
    "  fd-scale launch --elastic 8:32 --hostfile hosts.txt -- distill CONFIG     # hosts may go and come back\n"
    "  fd-scale launch --slurm --nodes 4 --nproc 8 --time 1-00:00:00 -- distill CONFIG     # prints an sbatch script",
    command_line=CommandLine(options.add_arguments, partial(options.run, known=Knowledge(work_of, places_of, needs))),
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
    elastic: str | None = None,
    restarts: Limit | None = None,
    wait_for_hosts: NotNegative = 600.0,
    probe_every: Positive = 30.0,
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
        elastic=elastic,
        restarts=restarts,
        wait_for_hosts=wait_for_hosts,
        probe_every=probe_every,
        work_of=work_of,
        lost_after=lost_after,
    )
