"""A training that others can watch: `fd-scale status` reads its folder, and Prometheus its page where it has one."""

import contextlib
import socket
from collections.abc import Iterator

from fd_scale.parallel.ranks import Ranks, gather, raise_on_all_ranks
from fd_scale.train.config import RunConfig
from fd_scale.train.run_folder import RunFolder
from fd_scale.watching.endpoint import serve
from fd_scale.watching.record import RunStatus


@contextlib.contextmanager
def watched(
    config: RunConfig, folder: RunFolder, ranks: Ranks, steps: int, first_step: int, global_batch: int
) -> Iterator[RunStatus | None]:
    """What rank 0 keeps up to date; None on the other ranks. Collective where it begins.

    Raises:
        BadInput: the port of Prometheus cannot be had, or the folder cannot be written; on all ranks.
    """
    hosts = gather(socket.gethostname())
    status: RunStatus | None = None
    with contextlib.ExitStack() as opened:
        with raise_on_all_ranks():
            if ranks.is_first:
                status = RunStatus(folder.folder, steps, first_step, global_batch, folder.starts(), hosts)
                if config.prometheus_port is not None:
                    opened.callback(serve(status, config.prometheus_port, config.prometheus_address))
        yield status
