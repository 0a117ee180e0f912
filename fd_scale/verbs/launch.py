"""`launch`: the ranks of a verb. Its command line is that of `fd_scale.launch`, which downstream packages share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fd_scale import launch as launcher
from fd_scale.fields import Limit, NotNegative, Positive, Processes
from fd_scale.launch import Port
from fd_scale.launch.check import Places
from fd_scale.launch.heartbeat import LOST_AFTER_SECONDS, LostAfter
from fd_scale.launch.nodes import NodeRank, Nodes
from fd_scale.verbs.launched import work_of
from fd_scale.verbs.plan import needs
from fd_scale.verbs.verb import CommandLine, jobs, verb


def places(command: Sequence[str]) -> Places:
    """What the configuration of a verb and its words uses, for `launch --check`.

    Raises:
        BadInput: see `fd_scale.config.load_config`.
    """
    name, words = next(iter(command), ""), command[1:]
    job = jobs().get(name)
    config = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    if job is None or config is None:
        return Places()
    from fd_scale.config import load_config

    overrides = [word for word in words if not word.startswith("-") and "=" in word]
    loaded = load_config(job.config_type(), config, overrides)
    data = getattr(loaded, "data", None)
    named = [("data.train", source) for source in data.sources] if data else []
    for section in ("finetune", "probe"):
        for key in ("train", "validation"):
            folder = getattr(getattr(loaded, section, None), key, None)
            named += [(f"{section}.{key}", folder)] if isinstance(folder, str) else []
    run = getattr(loaded, "run", None)
    return Places(run.folder if run else None, [pair for pair in named if is_folder(pair[1])])


def is_folder(source: str) -> bool:
    """And not images that are made up."""
    return not source.startswith("synthetic:")


@verb(
    "fd-scale launch --nproc 2 -- distill configs/demo/swin_v2.yaml run.folder=runs/mine\n"
    "  fd-scale launch --hostfile hosts.txt -- distill CONFIG     # lines: HOST slots=N, as for DeepSpeed\n"
    "  fd-scale launch --nnodes 2 --node-rank 0 --master-addr NODE0 --nproc 8 -- distill CONFIG     # on each node\n"
    "  fd-scale launch --check --hostfile hosts.txt -- distill CONFIG     # starts nothing; says what to fix first\n"
    "  fd-scale launch --elastic 8:32 --hostfile hosts.txt -- distill CONFIG     # hosts may go and come back\n"
    "  fd-scale launch --slurm --nodes 4 --nproc 8 --time 1-00:00:00 -- distill CONFIG     # prints an sbatch script",
    command_line=CommandLine(launcher.add_arguments, partial(launcher.run, work_of=work_of, plan=needs, places=places)),
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
