"""The verbs of `fd-scale` as functions. Each imports what it needs when it is called."""

from fd_scale.verbs.registry import *  # noqa: F403
from fd_scale.verbs.verb import registered as _registered

__all__ = [verb.function.__name__ for verb in _registered()]  # so that `help` and a generated reference list them
