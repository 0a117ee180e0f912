"""Where a run goes on: its newest whole checkpoint. Never a silent start from zero."""

import logging
import sys
from pathlib import Path
from typing import Any

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint import load_checkpoint, newest_checkpoint
from fd_scale.parallel.ranks import Ranks, together
from fd_scale.train.run_folder import RunFolder, say

log = logging.getLogger("fd_scale")


def resume(engine: Any, folder: RunFolder, ranks: Ranks) -> int:
    """Load the newest whole checkpoint. Collective.

    Returns:
        The step to go on from; 0 when the run has never saved.

    Raises:
        BadInput: there are checkpoints, and none is whole: starting from zero would hide that.
    """
    found: Path | None = None
    with together():
        if ranks.is_first:
            found, damaged = newest_checkpoint(folder.checkpoints)
            for line in damaged:
                log.warning("not used: %s", line)
                print(f"warning: {line}; it is not used", file=sys.stderr)
            if found is None and damaged:
                raise BadInput(
                    f"no checkpoint in {folder.checkpoints} is whole ({damaged[0]}); restore one, or move the folder "
                    f"away to start from zero"
                )
    path = process_group.from_first(found)
    if not isinstance(path, Path):
        return 0
    step = load_checkpoint(engine, path)
    say(ranks, f"resuming from {path}")
    return step
