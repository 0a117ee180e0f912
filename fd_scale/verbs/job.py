"""Verbs that read a configuration: the type of their configuration, what runs it, and what plans it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd_scale.progress import bar, silent


@dataclass(frozen=True)
class Job:
    """Verb that reads a configuration, as names of its parts.

    Each is written `module:name` and imported when it is asked for, so that nothing heavy is imported for a help.
    """

    config: str
    """The dataclass of its configuration."""
    run: str
    """Runs a loaded configuration, as one rank."""
    plan: str | None = None
    """Describes a loaded configuration as text, where `fd-scale plan` can."""
    memory: str | None = None
    """The memory of one rank of it, where there is a plan."""

    def config_type(self) -> type[Any]:
        return named(self.config)


def named(reference: str) -> Any:
    """Import the object that `module:name` names."""
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def run_training(job: Job, config: str | Path, overrides: Sequence[str]) -> Path:
    """Train as one rank of the process group that the environment describes; a world of one without it.

    Returns:
        The run folder.
    """
    from fd_scale.config import as_it_began, load_config, resolved, shipped

    loaded = load_config(job.config_type(), config, overrides)

    from fd_scale.parallel.deepspeed_config import read_json

    sharding = read_json(shipped(loaded.parallel.deepspeed))

    from fd_scale.parallel import ranks as process_group
    from fd_scale.train.run_folder import stored_config

    ranks = process_group.start(loaded.parallel.timeout_minutes)
    with process_group.raise_on_all_ranks():
        local = stored_config(loaded.run) if ranks.is_first else None
    stored = process_group.from_first(local)
    if isinstance(stored, dict):
        loaded = as_it_began(loaded, stored)
    folder = named(job.run)(loaded, resolved(loaded), sharding, ranks)
    process_group.finish()
    return folder


def run_probe(job: Job, config: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Measure frozen features as one rank of the process group that the environment describes.

    Returns:
        What the probe writes down.
    """
    from fd_scale.config import load_config

    loaded = load_config(job.config_type(), config, overrides)

    from fd_scale.parallel import ranks as process_group

    ranks = process_group.start(loaded.timeout_minutes)
    result = named(job.run)(loaded, ranks, bar("step") if ranks.is_first else silent)
    process_group.finish()
    return result
