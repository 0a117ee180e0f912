"""`fd-scale launch`: starts the ranks of a verb here or on the hosts of a hostfile, and keeps the exit contract.

torchrun turns a rank's exit 2 into 1 with pages of text; `deepspeed` ends with 143 on SIGTERM while its workers run on.
This launcher gives each rank torchrun's environment and then
- returns 0 when every rank does, else the code of the first rank that failed, having printed its one line;
- passes SIGTERM, Ctrl-C and SIGHUP on, once, as SIGTERM: the ranks finish the step, save and end with 0. A second
  signal kills them and returns 75;
- leaves no process behind, on any host, however it ends itself.
Leaves out: binding ranks to cores.

options                     the command line
ranks, words, environment   the ranks of this machine, what they are told and how
hosts, hostfile, heartbeat  those of other machines, over ssh, and signs of life between launchers
nodes                       this machine as one of several, each with a launcher of its own
watch                       waits for all of them, and decides which failure is the one to report
elastic/                    starts again after 75, with as many ranks as there are hosts for
check/                      looks at hosts before a start
slurm                       a batch script with the numbers of `plan`
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fd_scale.errors import BadInput, Expected
from fd_scale.exits import Failure
from fd_scale.fields import Limit, NotNegative, Positive, Processes, Range, within_ranges
from fd_scale.launch.elastic import WorkOf, starting_again
from fd_scale.launch.elastic.rounds import Rounds
from fd_scale.launch.environment import Node, free_port, likely_free_port, require_free_port
from fd_scale.launch.heartbeat import ALIVE, LOST_AFTER_SECONDS, LostAfter, pulse
from fd_scale.launch.hostfile import address_of, is_loopback, read_hostfile
from fd_scale.launch.hosts import BEGUN, Host, report_upwards
from fd_scale.launch.nodes import NodeRank, Nodes, ranks_per_node, this_node
from fd_scale.launch.ranks import Group, Rank
from fd_scale.launch.watch import Orders, first_failure, shut_down
from fd_scale.redaction import redacted_text
from fd_scale.schedulers import node_variables

Port = Annotated[int, Range(1, 65535)]
PROGRAM = (sys.executable, "-m", "fd_scale")
GRACE_SECONDS = 20.0  # between asking and killing, once a rank has failed
# The same once a host is silent: the others wait for it in a collective and cannot save, unless only ssh is cut.
SILENT_GRACE_SECONDS = 5.0


@within_ranges
def launch(
    command: Sequence[str],
    nproc: Processes | None = None,
    hostfile: Path | None = None,
    master_port: Port | None = None,
    *,
    nnodes: Nodes | None = None,
    node_rank: NodeRank | None = None,
    master_addr: str | None = None,
    lost_after: LostAfter = LOST_AFTER_SECONDS,
    elastic: str | None = None,
    restarts: Limit | None = None,
    wait_for_hosts: NotNegative = 600.0,
    probe_every: Positive = 30.0,
    program: Sequence[str] = PROGRAM,
    grace_seconds: float = GRACE_SECONDS,
    work_of: WorkOf = lambda command: None,
) -> int:
    """Run `program command...` once a rank and return the exit code; call it from the main thread.

    `nproc`: ranks on this machine, by default one a visible GPU, or one. `hostfile`: see `launch.hostfile`; the hosts
    are reached by ssh (FD_SCALE_SSH may hold another command, `ssh -p 2222`), where `program launch --node ...` must
    reach `run`. `nnodes`, `node_rank`, `master_addr`: one node of several without ssh, see `launch.nodes`. `elastic`,
    `restarts`, `wait_for_hosts`, `probe_every`: see `launch.elastic`, which learns from `work_of` what the command
    trains. Raises BadInput before anything is started.
    """
    if not command:
        raise BadInput("launch needs a verb after --, for example: fd-scale launch --nproc 2 -- distill CONFIG")
    if nproc is not None and hostfile is not None:
        raise BadInput(f"--nproc {nproc} and --hostfile {hostfile} exclude each other: the hostfile's slots count")
    if hostfile is not None and (nnodes, node_rank, master_addr) != (None, None, None):
        raise BadInput(
            f"--hostfile {hostfile} excludes --nnodes, --node-rank and --master-addr: with a hostfile one launcher "
            f"starts all nodes, with them each starts its own"
        )
    if hostfile is not None and node_variables(os.environ):
        raise BadInput(f"srun started this on several nodes, and each would start all of {hostfile}: leave it out")
    node = None if hostfile else this_node(nproc, nnodes, node_rank, master_addr, master_port, os.environ)
    slots = read_hostfile(hostfile) if hostfile else None
    again = starting_again(elastic, restarts, wait_for_hosts, probe_every, slots, node, lambda: work_of(command))

    def attempt(slots: Mapping[str, int] | None, orders: Orders) -> Failure | None:
        if slots is not None:
            nodes = plan_nodes(slots, master_port)
            return _run_hosts(nodes, program, command, orders, grace_seconds, lost_after)
        count = nproc or ranks_per_node(os.environ)
        here = node or Node(socket.gethostname(), count, 0, count, "127.0.0.1", master_port or free_port())
        if here.first_rank == 0:
            require_free_port(here.master_port)
        return _run_ranks(here, program, command, orders, grace_seconds)

    with Orders(grace_seconds) as orders:
        failure = Rounds(attempt, slots, again, orders).run() if again else attempt(slots, orders)
    return _conclude(failure)


def launch_node(node: Node, command: Sequence[str], *, program: Sequence[str] = PROGRAM) -> int:
    """Run the ranks of one host of a hostfile, and return the exit code.

    The far end of `launch`: orders come on standard input, whose first line was the environment (`launch.hosts`),
    and reports go to standard error.
    """
    with Orders(GRACE_SECONDS, sys.stdin.fileno(), answer=lambda: report_upwards(ALIVE)) as orders:
        report_upwards(BEGUN)
        try:
            if node.first_rank == 0:
                require_free_port(node.master_port)
            failure = _run_ranks(node, program, command, orders, GRACE_SECONDS, when_failed=report_upwards)
        except Expected as error:
            failure = Failure(error.exit_code, str(error), 0.0)
            report_upwards(failure)
    return failure.exit_code if failure else 0


def plan_nodes(slots: Mapping[str, int], master_port: int | None) -> list[Node]:
    """Number the ranks in the order of the hosts, and let them meet on the first."""
    first_host, second_host = [*slots, ""][:2]
    if master_port is None:
        master_port = free_port() if is_loopback(first_host) else likely_free_port()
    first_ranks = [sum(list(slots.values())[:i]) for i in range(len(slots))]
    world_size = sum(slots.values())
    return [
        Node(
            *(host, nproc, first_rank, world_size, address_of(first_host), master_port),
            peer=address_of(first_host if host != first_host else second_host),
        )
        for (host, nproc), first_rank in zip(slots.items(), first_ranks, strict=True)
    ]


def _run_ranks(
    node: Node,
    program: Sequence[str],
    command: Sequence[str],
    orders: Orders,
    grace_seconds: float,
    when_failed: Callable[[Failure], None] = lambda failure: None,
) -> Failure | None:
    """`when_failed` hears of a failure before the other ranks are ended, which can take the whole grace."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="fd_scale_launch_"))
    except OSError as error:
        raise BadInput(
            f"no folder for temporary files: {error.strerror}; set TMPDIR to one that can be written"
        ) from None
    failure = None
    try:
        with Group() as group:
            ranks = [Rank(node, i, program, command, group, folder) for i in range(node.nproc)]
            failure = first_failure(ranks, orders)
            if failure:
                when_failed(failure)
            shut_down(ranks, orders, grace_seconds)
    finally:
        if not (failure and failure.tail):  # the line printed names a log in there
            shutil.rmtree(folder, ignore_errors=True)
    return failure


def _run_hosts(
    nodes: Sequence[Node],
    program: Sequence[str],
    command: Sequence[str],
    orders: Orders,
    grace_seconds: float,
    lost_after: float,
) -> Failure | None:
    with Group() as group:
        hosts = [Host(node, program, command, group, lost_after) for node in nodes]
        with pulse([host.input for host in hosts], group.id):
            failure = first_failure(hosts, orders)
            # Each launcher out there grants its ranks the grace as well; ours is for hosts that do not answer.
            is_silent = any(host.is_silent for host in hosts)
            shut_down(hosts, orders, SILENT_GRACE_SECONDS if is_silent else grace_seconds + 5)
    if failure and failure.lost_peer and (silent := [said for host in hosts if (said := host.silent_for())]):
        return replace(failure, line=f"{failure.line}; {', '.join(silent)}")
    return failure


def _conclude(failure: Failure | None) -> int:
    if failure is None:
        return 0
    tail = f"{failure.tail}\n" if failure.tail else ""
    print(redacted_text(f"{tail}fd-scale: {failure.line}"), file=sys.stderr, flush=True)
    return failure.exit_code
