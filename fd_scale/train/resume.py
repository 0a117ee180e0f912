"""Beginning of a run: its newest whole checkpoint; or, in a run without any, what `start` names.

Never silently zero.

Resuming is the same run going on, and refuses whatever would make it another one. A fork takes weights, optimizer and
step of another run and may differ in its configuration. `init_from` takes weights alone and begins at step 0.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.parallel.checkpoint.loader import find_checkpoint, load_checkpoint, load_weights
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.state import TrainingState
from fd_scale.parallel.checkpoint.storage import Storage, checkpoints_of
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.ranks import Ranks, from_first, raise_on_all_ranks, say
from fd_scale.redaction import redacted_text
from fd_scale.train.config import StartConfig
from fd_scale.train.run_folder import Differences

log = logging.getLogger("fd_scale")


def begin(
    state: TrainingState,
    ema: ShardedEma | None,
    checkpoints: Storage,
    start: StartConfig,
    resolved: dict[str, Any],
    differences: Differences,
    origin: dict[str, Any],
    check: Callable[[dict[str, Any], str, bool], list[str]],
    initial: Callable[[str, Tensor], None],
    ranks: Ranks,
) -> tuple[int, dict[str, Any]]:
    """Load what the run begins with. Collective.

    Args:
        checkpoints: the run's own.
        differences: see `Differences`.
        origin: on rank 0, what this run's weights come from (data, teacher), in the form of a checkpoint's record.
        check: the task's, see `Parts.check_begin`.
        initial: fills a named parameter of a run that begins with no checkpoint; see `TrainingState.fill`.

    Returns:
        The step to resume from, and the record of the checkpoint where it is the run's own or that of a fork.

    Raises:
        BadInput: there are checkpoints and none is whole, or one is of another run: starting anew would hide that.
    """
    if start.fork_from and start.init_from:
        raise BadInput("start.fork_from and start.init_from contradict; set one to null", agreed=True)
    reader = _newest(checkpoints, ranks, f"restore one, or move {checkpoints} away to start anew")
    if reader is not None:
        with raise_on_all_ranks():
            if ranks.is_first:
                _refuse_another_run(reader, resolved, differences, origin)
        _ask_task(check, reader, True, ranks)
        load_checkpoint(state, ema, reader)
        say(ranks, f"resuming from {reader.where}")
        return reader.step, reader.record
    if start.fork_from:
        reader = _source(start.fork_from, start.step, "start.fork_from", ranks)
        _ask_task(check, reader, False, ranks)
        same = from_first(ranks.is_first and not _changed(reader, origin, but="data"))
        load_checkpoint(state, ema, reader, of_task=bool(same))  # statistics of another teacher would say nothing
        changed = "; ".join(differences(reader.record["config"], resolved))
        say(ranks, f"forked from {reader.where}; differing in {changed}")
        return reader.step, reader.record
    if start.init_from:
        reader = _source(start.init_from, start.step, "start.init_from", ranks)
        _ask_task(check, reader, False, ranks)
        load_weights(state, reader)
        say(ranks, f"weights from {reader.where}; the optimizer starts anew")
    else:
        state.fill(initial)
    if ema:
        ema.restart()
    return 0, {}


def _newest(storage: Storage, ranks: Ranks, fix: str) -> CheckpointReader | None:
    """The newest whole checkpoint, all newer damaged ones named; None where there is none at all. Collective."""

    def warn(line: str) -> None:
        log.warning("not used: %s", line)
        if ranks.is_first:
            print(f"warning: {redacted_text(line)}; it is not used", file=sys.stderr)

    found = find_checkpoint(storage, ranks, warn=warn)
    if found.reader is None and found.damaged:
        raise BadInput(f"no checkpoint is whole ({found.damaged[0]}); {fix}", agreed=True)
    return found.reader


def _source(location: str, step: int | None, key: str, ranks: Ranks) -> CheckpointReader:
    """Another run's checkpoint. Collective."""
    theirs = checkpoints_of(location)
    if step is None:
        reader = _newest(theirs, ranks, f"choose another {key}")
        if reader is None:
            raise BadInput(
                f"{key}={location} holds no checkpoints; give a run folder or a folder of checkpoints", agreed=True
            )
        return reader
    found = find_checkpoint(theirs, ranks, step)
    if found.damaged:
        raise BadInput(f"{found.damaged[0]}; choose another start.step", agreed=True)
    if found.reader is None:
        there = ", ".join(map(str, theirs.steps())) or "none"
        raise BadInput(f"{key}={location} has no checkpoint of step {step}; there are: {there}", agreed=True)
    return found.reader


def _refuse_another_run(
    reader: CheckpointReader, resolved: dict[str, Any], differences: Differences, origin: dict[str, Any]
) -> None:
    differing = differences(reader.record["config"], resolved) + _changed(reader, origin)
    if differing:
        raise BadInput(
            f"{reader.where} is of another run ({'; '.join(differing[:3])}); give another run.folder; with "
            f"start.fork_from={reader.storage} it goes on from there with these changes"
        )


def _ask_task(check: Callable, reader: CheckpointReader, same_run: bool, ranks: Ranks) -> None:
    """Collective."""
    with raise_on_all_ranks():
        lines = check(reader.record, str(reader.where), same_run) if ranks.is_first else []
    for line in lines:
        say(ranks, line)


def _changed(reader: CheckpointReader, origin: dict[str, Any], but: str = "") -> list[str]:
    """What the weights of a run come from and a checkpoint's do not, or the other way."""
    lines = []
    for what in [what for what in origin if what != but]:
        there, here = _identity(reader.record.get(what, {})), _identity(origin[what])
        if there != here:
            lines.append(f"{what}: {there} there, {here} here")
    return lines


def _identity(entry: dict[str, Any]) -> list[Any]:
    """What makes data or teacher what they are, wherever they lie: hashes and weights, in order."""
    if "sha256" in entry:
        return [entry["sha256"][:12]]
    return [(source["sha256"][:12], source.get("weight")) for source in entry.values()]
