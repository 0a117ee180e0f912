"""`python -m fd_scale_downstream train|test CONFIG`, and the verbs `check`, `export` and `launch`; see its `--help`.

A config goes through the runner that it names in `runner_type`, by default mmengine's plain one; MMSegmentation's and
MMDetection's own scripts take the same configs. Exit codes are those of `fd-scale`, and `launch` is its launcher, which
keeps them; ranks that torchrun started end with them too, but torchrun itself makes 1 of all that is not 0, and kills
ranks that need more than 30 s to save on SIGTERM.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS

from fd_scale.errors import BadInput
from fd_scale.exits import run_to_exit_code
from fd_scale.files import check_folder, check_words
from fd_scale.launch import options as launch_options
from fd_scale.launch.environment import refuse_local_rank
from fd_scale.launch.words import own_words
from fd_scale.progress import bar
from fd_scale.schedulers import torchrun_variables
from fd_scale_downstream.alone import alone
from fd_scale_downstream.check_data import DATA_SETS, check_data, refuse_damage, summary
from fd_scale_downstream.class_names import find_by_name
from fd_scale_downstream.export import export
from fd_scale_downstream.runner import FDRunner
from fd_scale_downstream.shown import hiding_secrets

PROGRAM = (sys.executable, "-m", "fd_scale_downstream")


def main(arguments: list[str] | None = None) -> Any:
    """Run one command of `python -m fd_scale_downstream`.

    Args:
        arguments: the words of the command line; None takes those of this process.

    Returns:
        The runner after its work, the exported file, or the exit code of what was launched.
    """
    words = own_words() if arguments is None else arguments
    check_words(words)
    refuse_local_rank(words)
    parser = argparse.ArgumentParser(
        prog="python -m fd_scale_downstream",
        description="Train and test backbones of fd_scale in MMSegmentation and MMDetection.",
        epilog="examples:\n"
        "  python -m fd_scale_downstream launch --nproc 8 -- train downstream/configs/coco_mini/upernet_zero3.py\n"
        "  python -m fd_scale_downstream export runs/upernet_zero3 upernet.pth\n"
        "  python -m fd_scale_downstream test downstream/configs/coco_mini/upernet_swin_v2_nano.py"
        " --checkpoint upernet.pth",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help in (("train", "train a config"), ("test", "test a config with the weights of --checkpoint")):
        running = verbs.add_parser(verb, help=help)
        running.add_argument("config", help="a config of downstream/configs, or your own")
        running.add_argument("--checkpoint", required=verb == "test", help="an mmengine checkpoint to start from")
        running.add_argument("--work-dir", help="default: runs/<name of the config>")
        running.add_argument(
            "--launcher",
            choices=["none", "pytorch", "slurm", "mpi"],
            help="mmengine's way to ranks (default: pytorch where a launcher, srun or mpirun started several)",
        )
        running.add_argument(
            "--cfg-options", nargs="+", action=DictAction, default={}, help="key=value, dots go deeper"
        )
        running.set_defaults(resume=False)
        if verb == "train":
            running.add_argument("--resume", action="store_true", help="go on from the work folder's newest checkpoint")
    exporting = verbs.add_parser("export", help="an ordinary mmengine checkpoint out of a run under FDStrategy")
    exporting.add_argument("run", help="work folder, or a folder or URL of checkpoints")
    exporting.add_argument("out", type=Path, help="file to write")
    exporting.add_argument("--step", type=int, help="checkpoint to take (default: the newest whole one)")
    exporting.add_argument("--best", metavar="METRIC", help="take the best one by this metric instead")
    exporting.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="the average (default: where there is one)"
    )
    checking = verbs.add_parser("check", help="whether a data set is whole, and the one that configs expect")
    checking.add_argument("kind", choices=DATA_SETS, help="which data set")
    checking.add_argument("root", type=Path, help="folder that it was unpacked to")
    checking.add_argument("--quick", action="store_true", help="names and sizes alone, no map is read")
    launching = verbs.add_parser("launch", help="start the ranks of a verb here or on the hosts of a hostfile")
    launch_options.add_arguments(launching)

    options = parser.parse_args(words)
    if options.verb == "launch":
        return launch_options.run(options, program=PROGRAM)
    if options.verb == "export":
        return export(options.run, options.out, step=options.step, best=options.best, ema=options.ema)
    if options.verb == "check":
        found = check_data(options.kind, options.root, quick=options.quick, progress=bar("map"))
        print(summary(options.kind, found))
        refuse_damage(options.kind, options.root, found)
        return 0
    try:
        config = Config.fromfile(options.config)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise BadInput(f"config {options.config} cannot be read: {error}") from None
    config.merge_from_dict(options.cfg_options)
    config.launcher = options.launcher or _launcher(config)
    config.work_dir = options.work_dir or config.get("work_dir") or f"runs/{Path(options.config).stem}"
    check_folder(config.work_dir, "--work-dir")
    config.load_from = options.checkpoint or config.get("load_from")
    config.resume = options.resume
    for name in sorted(find_by_name(list(config.values()))):
        print(f"{options.config}: {name} finds classes by name here, not by their order in a file", file=sys.stderr)
    config.custom_hooks = [*(config.get("custom_hooks") or ()), {"type": "ClassNamesHook"}]
    runner = hiding_secrets(RUNNERS.get(config.get("runner_type", "Runner"))).from_cfg(config)  # type: ignore[attr-defined]
    if options.verb == "test":
        runner.test()
    elif isinstance(runner, FDRunner):
        runner.train()
    else:
        with alone(runner):
            runner.train()
    return runner


def _launcher(config: Config) -> str:
    """By the environment, which is put into torchrun's words, the only ones that `pytorch` and `FDStrategy` know.

    Raises:
        BadInput: several ranks that would each train by itself, or a launcher that says too little.
    """
    if "RANK" not in os.environ:
        os.environ.update(torchrun_variables(os.environ))
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return "none"
    if config.get("runner_type") != "FDRunner" and not torch.cuda.is_available():
        raise BadInput(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, and mmengine's plain runner has several ranks on GPUs alone: "
            f'start one process, or set runner_type = "FDRunner" with FDStrategy'
        )
    return "pytorch"


def run() -> int:
    """Run the command line as a process that ends by the exit contract of `fd_scale.errors`."""
    done = main()
    if isinstance(done, Path):
        print(done)
    return done if isinstance(done, int) else 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(run))
