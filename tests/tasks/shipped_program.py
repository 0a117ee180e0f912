"""`fd-scale`, but that every shipped name is of a reduced size, and that timm's hub is a folder: `FD_SCALE_TEST_HUB`.

`shipped_program.py publish FOLDER` writes the weights that shipped configs look for; see `tasks.reduced`.
"""

import argparse
import os
import sys
from pathlib import Path

import huggingface_hub
from tasks import reduced

from fd_scale import cli
from fd_scale.exits import run_to_exit_code
from fd_scale.launch import options

PROGRAM = (sys.executable, "-m", "tasks.shipped_program")
HUB = "FD_SCALE_TEST_HUB"


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "launch":  # its ranks are to be this program too
        parser = argparse.ArgumentParser()
        options.add_arguments(parser)
        sys.exit(run_to_exit_code(lambda: options.run(parser.parse_args(words), PROGRAM)))
    reduced.register()
    if verb == "publish":
        reduced.publish(Path(*words))
        return
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_CACHE = os.environ[HUB]
    cli.main()


if __name__ == "__main__":
    main()
