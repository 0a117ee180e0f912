"""Samples that could not be used: counted over all ranks, named in the log, and too many of them stop the run."""

import logging
from collections import Counter

from fd_scale.data.decode import REASONS
from fd_scale.errors import BadInput

log = logging.getLogger("fd_scale")

ALWAYS_TOLERATED = 10  # in the first steps a single one would be a large share


class BadSamples:
    """Counts of bad samples since the start of this process; the same on every rank."""

    def __init__(self, max_share: float):
        self.max_share = max_share
        self.counts = dict.fromkeys(REASONS, 0)
        self.seen = 0

    def local_counts(self, bad: list[tuple[str, str]]) -> list[float]:
        """Count this rank's (id, reason) pairs, one number for each reason, and write them to its log."""
        for sample, reason in bad:
            log.warning("sample %s is %s; its neighbour stands in", sample, reason)
        counts = Counter(reason for _, reason in bad)
        return [float(counts[reason]) for reason in REASONS]

    def add(self, global_counts: list[float], images: int) -> None:
        """Take in one step's counts over all ranks.

        Raises:
            BadInput: too many since the start, on every rank.
        """
        self.seen += images
        for reason, count in zip(REASONS, global_counts, strict=True):
            self.counts[reason] += int(count)
        total = sum(self.counts.values())
        if total > ALWAYS_TOLERATED + self.max_share * self.seen:
            shown = ", ".join(f"{count} {reason}" for reason, count in self.counts.items() if count)
            raise BadInput(
                f"{total} of {self.seen} samples could not be used ({shown}), more than data.max_bad_share "
                f"{self.max_share:g}; their ids are in the logs: repair and pack them again, or raise the limit",
                agreed=True,
            )

    def values(self) -> dict[str, float]:
        """Metrics: the total, and each reason that occurred."""
        each = {f"bad_samples/{reason}": float(count) for reason, count in self.counts.items() if count}
        return {"bad_samples": float(sum(self.counts.values())), **each}
