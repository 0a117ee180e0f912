"""Loading: all ranks together find a whole checkpoint, open it, compare it with their model, and take their parts.

Which checkpoint a run begins with, and whether it is of that run, others decide (`fd_scale.train.resume`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from fd_scale.errors import BadInput
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.checkpoint.reader import ATTEMPTS, BUFFER, WEIGHT, CheckpointReader, damage
from fd_scale.parallel.checkpoint.state import TrainingState
from fd_scale.parallel.checkpoint.storage import Storage
from fd_scale.parallel.ema import EMA, ShardedEma
from fd_scale.parallel.ranks import Ranks, raise_on_all_ranks


@dataclass(frozen=True)
class Found:
    """Checkpoint that was found.

    reader: of the checkpoint, None where there is no whole one.
    damaged: a line for each that was passed by.
    """

    reader: CheckpointReader | None
    damaged: list[str] = field(default_factory=list)


def find_checkpoint(
    storage: Storage, ranks: Ranks, step: int | None = None, warn: Callable[[str], None] = lambda line: None
) -> Found:
    """Find the newest checkpoint that is whole, or that of a step. Collective.

    Args:
        warn: is given a line for each newer checkpoint that is damaged, at once: the next one may fail to be opened.
    """
    if step is None:
        newest, damaged = find_whole(storage, ranks, warn)
        return Found(None if newest is None else _open(storage, newest), damaged)
    with raise_on_all_ranks():
        steps = storage.steps()
    if step not in process_group.gather(steps)[0]:
        return Found(None)
    problem = _damage_on_any_rank(storage, step, ranks)
    return Found(_open(storage, step)) if problem is None else Found(None, [problem])


def find_whole(
    storage: Storage, ranks: Ranks, warn: Callable[[str], None] = lambda line: None
) -> tuple[int | None, list[str]]:
    """Find the step of the newest checkpoint that is whole, with a line for every newer one that is not. Collective.

    Each rank hashes its share of the files. Where the storage is another run's, which removed all of them meanwhile, it
    looks again. `warn`: see `find_checkpoint`.
    """
    problems: list[str] = []
    tried: list[int] = []
    for _ in range(ATTEMPTS):
        with raise_on_all_ranks():
            steps = storage.steps()
        steps = process_group.gather(steps)[0]  # one view of it, should the storage show others something else
        for step in reversed([step for step in steps if step not in tried]):
            problem = _damage_on_any_rank(storage, step, ranks)
            if problem is None:
                return step, problems
            problems.append(problem)
            warn(problem)
        if set(steps) <= set(tried):
            break
        tried += steps
    return None, problems


def _damage_on_any_rank(storage: Storage, step: int, ranks: Ranks) -> str | None:
    """What `damage` says, every rank hashing its share of the files. Collective."""
    with raise_on_all_ranks():
        found_here = damage(storage, step, ranks.rank, ranks.world)
    return next(filter(None, process_group.gather(found_here)), None)


def _open(storage: Storage, step: int) -> CheckpointReader:
    with raise_on_all_ranks():
        reader = CheckpointReader(storage, step)
    return reader


def load_checkpoint(
    state: TrainingState, ema: ShardedEma | None, reader: CheckpointReader, of_task: bool = True
) -> None:
    """Load weights, optimizer states, average and what the task keeps. Collective.

    The training that follows is the one that was saved.

    Raises:
        BadInput: the checkpoint is of another model or optimizer; the line names the first difference.
    """
    with raise_on_all_ranks():
        _check_same_model(state, reader)
        if reader.optimizer != state.optimizer_name:
            raise BadInput(
                f"{reader.where} holds states of {reader.optimizer}, this run trains with {state.optimizer_name}; "
                f"keep the optimizer, or take the weights alone with start.init_from"
            )
        if ema and EMA not in reader.keys:
            raise BadInput(
                f"{reader.where} holds no moving average; set train.ema_decay to null, or take its weights alone with "
                f"start.init_from"
            )
    with raise_on_all_ranks():
        state.load(reader, optimizer=True)
        if of_task:
            state.load_of_task(reader)
        if ema:
            ema.load(reader)


def load_weights(state: TrainingState, reader: CheckpointReader) -> None:
    """Load weights and buffers alone; the optimizer starts afresh. Collective.

    Raises:
        BadInput: the checkpoint is of another model.
    """
    with raise_on_all_ranks():
        _check_same_model(state, reader)
    with raise_on_all_ranks():
        state.load(reader, optimizer=False)


def _check_same_model(state: TrainingState, reader: CheckpointReader) -> None:
    """Raises:
    BadInput: a tensor is missing on one side or has another shape.
    """
    ours = state.shapes()
    theirs = {name: reader.shape(name, key) for key in (WEIGHT, BUFFER) for name in reader.names(key)}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise BadInput(
                f"{reader.where} is of another model: {name} is {theirs.get(name, 'absent')} there and "
                f"{ours.get(name, 'absent')} in this run's model; give another run.folder, or the config that the "
                f"checkpoint was made with"
            )
