"""What every verb of the command line is made with."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from fd_scale.errors import EXIT_BAD_INPUT
from fd_scale.exits import is_first_rank


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"fd-scale: {message}; see `{self.prog} --help`\n")


def add_verb(verbs: Any, name: str, run: Callable, help: str, example: str) -> argparse.ArgumentParser:
    """A verb whose `--help` ends with an example."""
    verb = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(verb=run)
    return verb


def config_arguments(verb: argparse.ArgumentParser) -> None:
    """Of a verb that takes a YAML file."""
    verb.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.seed=1 run.folder=runs/b")


def speaks() -> bool:
    """Whether this rank prints results."""
    return is_first_rank()
