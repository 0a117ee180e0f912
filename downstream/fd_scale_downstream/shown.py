"""The config as mmengine shows it: in its log, in the work folder, in every checkpoint, and to trackers.

A runner gets the parts to build from as the user gave them, and the whole, which is shown, with secrets hidden.
"""

import copy
from typing import Any

from mmengine.config import Config

from fd_scale.output import guard_logs
from fd_scale.redaction import redacted


class HidesSecrets:
    """Mixin that hides secrets in the config of a runner; it stands before mmengine's class among the bases."""

    def __init__(self, *args: Any, cfg: Any = None, **parts: Any):
        guard_logs()  # of downloads and tracebacks; also where mmengine's own scripts start the runner
        super().__init__(*args, cfg=shown(cfg), **parts)  # type: ignore[call-arg]


def hiding_secrets(runner: type) -> type:
    """Make a runner class that hides secrets."""
    return runner if issubclass(runner, HidesSecrets) else type(runner.__name__, (HidesSecrets, runner), {})


def shown(config: Any) -> Any:
    """Remove the secrets from a config. One without secrets is returned as it is."""
    if not isinstance(config, Config):
        return redacted(config)
    content = redacted(config._cfg_dict)
    if content == config._cfg_dict:
        return config
    without = copy.deepcopy(config)
    object.__setattr__(without, "_cfg_dict", content)
    object.__setattr__(without, "_text", redacted(config.text))
    return without
