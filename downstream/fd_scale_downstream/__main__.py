"""`python -m fd_scale_downstream train|test CONFIG`: a config through mmengine's runner, and nothing else.

A config with a `strategy` goes through FlexibleRunner, any other through the plain Runner. MMSegmentation's and
MMDetection's own scripts take these configs as well, the plain ones.
"""

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner


def main(arguments: list[str] | None = None) -> Runner | FlexibleRunner:
    """`arguments` as on the command line; None takes those. Returns the runner, after its work."""
    parser = argparse.ArgumentParser(prog="python -m fd_scale_downstream", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["train", "test"])
    parser.add_argument("config", help="a config of downstream/configs, or your own")
    parser.add_argument("--checkpoint", help="an mmengine checkpoint: test reads it, train starts from it")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the work folder")
    parser.add_argument("--work-dir", help="default: runs/<name of the config>")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, dots go deeper")
    options = parser.parse_args(arguments)
    if options.verb == "test" and not options.checkpoint:
        parser.error("test needs --checkpoint")

    config = Config.fromfile(options.config)
    config.merge_from_dict(options.cfg_options)
    config.launcher = options.launcher
    config.work_dir = options.work_dir or config.get("work_dir") or f"runs/{Path(options.config).stem}"
    config.load_from = options.checkpoint or config.get("load_from")
    config.resume = options.resume
    runner = (FlexibleRunner if config.get("strategy") else Runner).from_cfg(config)
    runner.train() if options.verb == "train" else runner.test()
    return runner


if __name__ == "__main__":
    main()
