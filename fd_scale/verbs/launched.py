"""What `launch` must know of the command that its ranks run, to start it again on more or fewer of them."""

from collections.abc import Sequence
from pathlib import Path

from fd_scale.launch.elastic import Work
from fd_scale.verbs.verb import jobs


def work_of(command: Sequence[str]) -> Work | None:
    """Read the configuration of a training verb; imports no torch.

    Args:
        command: the verb and its words.

    Returns:
        None for a verb that does not train.

    Raises:
        BadInput: as the ranks would, with the same line.
    """
    from fd_scale.config import load_config
    from fd_scale.tasks.config import JobConfig

    verb, *words = command
    job = jobs().get(verb)
    if job is None or not issubclass(job.config_type(), JobConfig):
        return None
    if not words or words[0].startswith("-"):
        return None  # the ranks say what is wrong with that
    loaded = load_config(job.config_type(), words[0], words[1:])
    return Work(
        loaded.train.global_batch,
        loaded.train.micro_batch,
        Path(loaded.run.folder),
        lambda: _newest_step(loaded.run.checkpoints, Path(loaded.run.folder)),
    )


def _newest_step(checkpoints: str | None, folder: Path) -> int:
    from fd_scale.parallel.checkpoint.storage import CHECKPOINTS, open_storage

    return max(open_storage(checkpoints or folder / CHECKPOINTS).steps(), default=0)
