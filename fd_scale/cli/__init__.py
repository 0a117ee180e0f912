"""The verbs from a shell. Parsing alone imports nothing heavy, so that `--help` answers at once."""

import argparse
import sys
from collections.abc import Sequence

from fd_scale import __version__
from fd_scale.cli import data, files, jobs, measuring
from fd_scale.cli.verb import Parser
from fd_scale.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_RETRY
from fd_scale.exits import run_to_exit_code
from fd_scale.files import check_words
from fd_scale.launch.environment import refuse_local_rank
from fd_scale.launch.words import own_words

EXIT_CODES = f"""exit codes:
  0   done, or stopped by SIGTERM or SIGHUP after saving
  {EXIT_BAD_INPUT}   bad input: one line names the value, the place and the fix
  {EXIT_RETRY}  worth a retry: a lost peer, failing storage, stopped at the start; the same command resumes
  {EXIT_BUG}   a bug: a traceback"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and end the process with its exit code."""

    def run() -> int | None:
        words = own_words() if arguments is None else arguments
        check_words(words)
        refuse_local_rank(words)
        parsed = parse(words)
        return parsed.verb(parsed)

    sys.exit(run_to_exit_code(run))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes positional words in one place only; key=value may also stand behind options."""
    root = parser()
    parsed, rest = root.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(parsed, "overrides")]
    if unknown:
        root.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="fd-scale",
        description="Feature distillation of pretrained vision models, from a laptop CPU to many nodes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=__version__)
    verbs = root.add_subparsers(required=True, metavar="VERB")
    for add in (
        data.add_pack,
        data.add_index,
        data.add_verify,
        jobs.add_plan,
        jobs.add_distill,
        jobs.add_finetune,
        jobs.add_launch,
        measuring.add_probes,
        measuring.add_wise_ft,
        files.add_export,
        files.add_convert,
        files.add_teachers,
        files.add_fetch_teacher,
        jobs.add_demo,
    ):
        add(verbs)
    return root
