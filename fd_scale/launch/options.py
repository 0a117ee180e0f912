"""The command line of `launch`, which `fd-scale` and downstream packages share."""

import argparse
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd_scale.errors import BadInput
from fd_scale.files import parse_json
from fd_scale.launch import PROGRAM, launch, launch_node, plan_nodes, slurm
from fd_scale.launch.check import Places, check
from fd_scale.launch.elastic import WorkOf
from fd_scale.launch.environment import Node, free_port
from fd_scale.launch.heartbeat import LOST_AFTER_SECONDS
from fd_scale.launch.hostfile import read_hostfile
from fd_scale.launch.nodes import ranks_per_node


@dataclass(frozen=True)
class Knowledge:
    """What those who know the verbs can say of a command, given as the words behind `--`; nothing by default."""

    work: WorkOf = lambda command: None
    """What it trains, to start it again on other ranks."""
    places: Callable[[Sequence[str]], Places] = lambda command: Places()
    """What its configuration uses, for `--check`."""
    plan: slurm.Plan | None = None
    """What its ranks need, for a batch script; without it there is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb; hand the parsed ones to `run`."""
    parser.add_argument("--nproc", type=int, help="ranks on this machine (default: one a visible GPU, else 1)")
    parser.add_argument("--master-port", type=int, help="where ranks meet (default: a free port; 29500 with --nnodes)")
    parser.add_argument("--node", help=argparse.SUPPRESS)  # one launcher to another: a `Node` as JSON
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- VERB ...", help="what every rank runs")

    hosts = parser.add_argument_group("hosts that are reached by ssh")
    hosts.add_argument("--hostfile", type=Path, help="lines of 'host slots=N'")
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    lost = f"silence after which a host is lost (default: {LOST_AFTER_SECONDS:g})"
    hosts.add_argument("--lost-after", default=LOST_AFTER_SECONDS, help=lost, **seconds)
    hosts.add_argument("--check", action="store_true", help="start nothing: look at the hosts, and say what to fix")
    hosts.add_argument("--json", action="store_true", help="what --check finds as JSON")

    nodes = parser.add_argument_group("one node of several, each with a launcher of its own")
    nodes.add_argument("--nnodes", type=int, help="how many there are (default: PET_NNODES, or those of a Slurm step)")
    nodes.add_argument("--node-rank", type=int, help="which of them this is, from 0")
    nodes.add_argument("--master-addr", help="a name of node 0, where the ranks meet")

    again = parser.add_argument_group("starting again after exit code 75")
    again.add_argument("--restarts", type=int, metavar="N", help="at most N times without a new checkpoint in between")
    again.add_argument("--elastic", metavar="MIN:MAX", help="with so many ranks, on those hosts that are there")
    wait = "for enough hosts, before it gives up (default: 600)"
    again.add_argument("--wait-for-hosts", default=600.0, help=wait, **seconds)
    again.add_argument("--probe-every", default=30.0, help="a host that is missing (default: 30)", **seconds)

    slurm.add_arguments(parser)


def run(arguments: argparse.Namespace, program: Sequence[str] = PROGRAM, known: Knowledge = Knowledge()) -> int:
    """What the parsed options ask for; returns the exit code. Raises BadInput."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if slurm.is_asked_for(arguments):
        return slurm.run(arguments, command, program, known.plan)
    if arguments.node is not None:
        try:
            node = Node(**parse_json(arguments.node))
        except (ValueError, TypeError) as error:
            raise BadInput(f"--node is for one launcher to another, and this is no node: {error}") from None
        return launch_node(node, command, program=program)
    if arguments.json and not arguments.check:
        raise BadInput("--json is how --check shows what it finds; give --check as well, or leave it out")
    if arguments.check:
        return _check(arguments, known.places(command))
    return launch(
        command,
        arguments.nproc,
        arguments.hostfile,
        arguments.master_port,
        nnodes=arguments.nnodes,
        node_rank=arguments.node_rank,
        master_addr=arguments.master_addr,
        elastic=arguments.elastic,
        restarts=arguments.restarts,
        wait_for_hosts=arguments.wait_for_hosts,
        probe_every=arguments.probe_every,
        lost_after=arguments.lost_after,
        program=program,
        work_of=known.work,
    )


def _check(arguments: argparse.Namespace, places: Places) -> int:
    if arguments.nnodes is not None:
        raise BadInput(f"--nnodes {arguments.nnodes}: --check reaches other hosts by ssh; give --hostfile instead")
    if arguments.hostfile is None:
        count = arguments.nproc or ranks_per_node(os.environ)
        slots = {socket.gethostname(): count}
        return check(slots, arguments.master_port or free_port(), places, remote=False, json=arguments.json)
    slots = read_hostfile(arguments.hostfile)
    port = plan_nodes(slots, arguments.master_port)[0].master_port
    return check(slots, port, places, json=arguments.json)
