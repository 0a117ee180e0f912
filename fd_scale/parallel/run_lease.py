"""The lease on a run, held by rank 0 for all ranks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fd_scale.errors import Retry
from fd_scale.lease import OF_RUN, Lease
from fd_scale.parallel.ranks import Ranks, from_first, raise_on_all_ranks

LEASE = OF_RUN


class Leases(list[Lease]):
    """Leases of one start, as its ranks see them: rank 0 has them; the others have none, and nothing to check."""

    def lost(self) -> bool:
        """Whether one is known to be another start's by now; see `Lease.lost`."""
        return any(lease.lost() for lease in self)

    def check(self) -> None:
        """Raise Retry if one is no longer ours."""
        for lease in self:
            lease.check()


@contextmanager
def held_by_first(
    folder: Path,
    checkpoints: str | None,
    folder_key: str,
    checkpoints_key: str,
    ranks: Ranks,
    must_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Leases]:
    """Work on a run that no other start works on. Collective where it begins, and not where it ends.

    The ranks meet every moment while rank 0 waits, so that none of them loses patience with it.

    Args:
        folder: of the run.
        checkpoints: where they lie, unless in that folder. A folder elsewhere has a lease of its own, since two runs
            may name it; an object store has none.
        folder_key, checkpoints_key: what the two are called in the configuration.
        must_stop: whether this process was asked to stop; then it waits no longer.

    Raises:
        Retry: another start works there; or a stop was asked for before it was known.
        BadInput: one of them cannot be written to.
    """
    wanted = [Lease(folder / LEASE, f"{folder_key} {folder}")]
    if checkpoints and "://" not in checkpoints and not Path(checkpoints).resolve().is_relative_to(folder.resolve()):
        wanted.append(Lease(Path(checkpoints) / LEASE, f"{checkpoints_key} {checkpoints}"))
    leases = Leases()
    try:
        for lease in wanted:
            taken = False
            while not taken:
                with raise_on_all_ranks():
                    if must_stop():
                        raise Retry(f"stopped while waiting for {lease.what}, where another start may be at work")
                    if ranks.is_first and lease.take():
                        leases.append(lease)
                taken = bool(from_first(lease in leases))
        yield leases
    finally:
        for lease in reversed(leases):
            lease.release()
