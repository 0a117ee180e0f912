"""The verbs of `fd-scale` as functions. Each imports what it needs when it is called."""

from fd_scale.verbs.registry import *  # noqa: F403
