"""`launch --restarts N` and `--elastic MIN:MAX`: starts the ranks again after 75, on the hosts that are there.

One start of all ranks is a round. After a round that ended with 75, hosts are asked by ssh whether they can take ranks,
and the next round has the largest possible world of those that can (`worlds`). It resumes from the newest
checkpoint, which any number of ranks can do with the same images in the same order. While a round has fewer ranks than
all hosts could make, the missing hosts are asked every so often; when that is worth it, the ranks are asked to save and
stop, and the next round has more. Exit codes 2 and 1 end it all, and so does a signal of the user's.

Two starts never write at once: the run's lease sees to that. Where the host that held it is lost, the next round begins
when nobody renews the lease any more, and its rank 0 takes it over when it is stale (`fd_scale.lease`).

Not torchrun's rendezvous: it turns 2 into 1, and noticed a host that was cut off only after nine minutes. Leaves out:
hosts that are added to the hostfile later; a host that answers and whose ranks fail every time, which ends it all when
the restarts are used up; and agreeing with other launchers (`--nnodes`), whose scheduler starts them again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fd_scale.errors import EXIT_RETRY, BadInput
from fd_scale.launch.elastic.worlds import read_bounds
from fd_scale.launch.environment import Node

RESTARTS = 3
"""Of an elastic launch that was told no number."""


@dataclass(frozen=True)
class Work:
    """What must be known of a command to start it again on other ranks."""

    global_batch: int
    micro_batch: int
    folder: Path
    """Of the run."""
    newest_step: Callable[[], int]
    """Of its checkpoints; 0 where there is none."""


WorkOf = Callable[[Sequence[str]], Work | None]
"""Words of a command -> its work; None for a command that trains nothing. Raises BadInput."""


@dataclass(frozen=True)
class Again:
    """How often, and on which ranks, to start again."""

    restarts: int
    """At most, with no new checkpoint in between."""
    work: Work | None = None
    bounds: range | None = None
    """Of the number of ranks, where it may change."""
    wait_for_hosts: float = 600.0
    """Seconds, until enough of them can take ranks."""
    probe_every: float = 30.0
    """Seconds between two questions to a host that is missing."""


def starting_again(
    elastic: str | None,
    restarts: int | None,
    wait_for_hosts: float,
    probe_every: float,
    slots: Mapping[str, int] | None,
    node: Node | None,
    work: Callable[[], Work | None],
) -> Again | None:
    """What the options of `launch` ask for; None for one start and no more.

    Args:
        slots: of the hostfile.
        node: this one of several, each with a launcher of its own.

    Raises:
        BadInput: they ask for what cannot be.
    """
    if elastic is None and not restarts:
        return None
    option = f"--restarts {restarts}" if elastic is None else f"--elastic {elastic}"
    if node is not None:
        raise BadInput(
            f"{option} on one node of several: their launchers know nothing of each other; let the scheduler start all "
            f"of them again after {EXIT_RETRY}, or use --hostfile"
        )
    bounds = None if elastic is None else read_bounds(elastic)
    if bounds and slots is None:
        raise BadInput(f"{option} needs --hostfile, whose hosts may go and come back")
    found = work()
    if bounds and found is None:
        raise BadInput(
            f"{option} needs a verb that has train.global_batch, which stays the same on any number of ranks: distill "
            f"or finetune; other verbs can have --restarts N"
        )
    return Again(RESTARTS if restarts is None else restarts, found, bounds, wait_for_hosts, probe_every)
