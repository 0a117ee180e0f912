"""The lease on a run, held by rank 0 for all ranks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fd_scale.lease import Lease
from fd_scale.parallel.ranks import Ranks, from_first, together


class Leases(list[Lease]):
    """Those of one start, as its ranks see them: rank 0 has them; the others have none, and nothing to check."""

    def lost(self) -> bool:
        """Whether one is known to be another start's by now; see `Lease.lost`."""
        return any(lease.lost() for lease in self)

    def check(self) -> None:
        """Raises Retry where one is no longer ours."""
        for lease in self:
            lease.check()


@contextmanager
def held_by_first(places: Sequence[tuple[Path, str]], ranks: Ranks) -> Iterator[Leases]:
    """Work on a run that no other start works on. Collective where it begins, and not where it ends.

    The ranks meet every moment while rank 0 waits, so that none of them loses patience with it.

    Args:
        places: files of leases, and what each protects; as many on every rank.

    Raises:
        Retry: another start works there.
        BadInput: such a file cannot be written.
    """
    leases = Leases()
    try:
        for file, what in places:
            lease = Lease(file, what)
            taken = False
            while not taken:
                with together():
                    if ranks.is_first and lease.take():
                        leases.append(lease)
                taken = bool(from_first(lease in leases))
        yield leases
    finally:
        for lease in reversed(leases):
            lease.release()
