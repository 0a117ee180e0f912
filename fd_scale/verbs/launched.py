"""What `launch` must know of the command that its ranks run: to start it again, and to look at the hosts before."""

from collections.abc import Sequence
from pathlib import Path

from fd_scale.launch.check import Places
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


def places_of(command: Sequence[str]) -> Places:
    """What the configuration of a verb and its words uses, for `launch --check`.

    Raises:
        BadInput: see `fd_scale.config.load_config`.
    """
    name, words = next(iter(command), ""), command[1:]
    job = jobs().get(name)
    config = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    if job is None or config is None:
        return Places()
    from fd_scale.config import load_config

    overrides = [word for word in words if not word.startswith("-") and "=" in word]
    loaded = load_config(job.config_type(), config, overrides)
    data = getattr(loaded, "data", None)
    named = [("data.train", source) for source in data.sources] if data else []
    for section in ("finetune", "probe"):
        for key in ("train", "validation"):
            folder = getattr(getattr(loaded, section, None), key, None)
            named += [(f"{section}.{key}", folder)] if isinstance(folder, str) else []
    run = getattr(loaded, "run", None)
    return Places(run.folder if run else None, [pair for pair in named if _is_folder(pair[1])])


def _newest_step(checkpoints: str | None, folder: Path) -> int:
    from fd_scale.parallel.checkpoint.storage import CHECKPOINTS, open_storage

    return max(open_storage(checkpoints or folder / CHECKPOINTS).steps(), default=0)


def _is_folder(source: str) -> bool:
    """And not images that are made up."""
    return not source.startswith("synthetic:")
