"""The command line, made from the functions of the verbs. Parsing imports nothing heavy, so `--help` is quick."""

import argparse
import inspect
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from fd_scale import __version__
from fd_scale.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_RETRY, BadInput
from fd_scale.exits import run_to_exit_code
from fd_scale.files import check_words
from fd_scale.launch.environment import refuse_local_rank
from fd_scale.launch.words import own_words
from fd_scale.verbs.verb import Argument, Verb, description, registered

EXIT_CODES = f"""exit codes:
  0   done, or stopped by SIGTERM or SIGHUP after saving ({EXIT_RETRY} with FD_SCALE_STOPPED_EXIT={EXIT_RETRY})
  {EXIT_BAD_INPUT}   bad input: one line names the value, the place and the fix
  {EXIT_RETRY}  worth a retry: a lost peer, failing storage, stopped at the start; the same command resumes
  {EXIT_BUG}   a bug: a traceback"""


class Parser(argparse.ArgumentParser):
    """Parser that says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and end the process with its exit code."""

    def run() -> int | None:
        words = own_words() if arguments is None else arguments
        check_words(words)
        refuse_local_rank(words)
        return run_verb(parse(words))

    sys.exit(run_to_exit_code(run))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line in which key=value may also stand behind options, which argparse alone does not take."""
    root = parser()
    parsed, rest = root.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(parsed, "overrides")]
    if unknown:
        root.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def run_verb(parsed: argparse.Namespace) -> int | None:
    """Call the function of the verb that was parsed, and show its result."""
    verb: Verb = parsed.verb
    if verb.command_line:
        return verb.command_line.run(parsed)
    given = {name: getattr(parsed, name) for name in verb.parameters}
    verb.show(verb.function(**given), **given)
    return None


def parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="fd-scale",
        description="Feature distillation of pretrained vision models, from a laptop CPU to many nodes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=__version__)
    verbs = root.add_subparsers(required=True, metavar="VERB")
    for verb in registered():
        words = verbs.add_parser(
            verb.name,
            help=verb.help[0].lower() + verb.help[1:].rstrip("."),
            description=verb.help,
            epilog=f"example:\n  {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        words.set_defaults(verb=verb)
        if verb.command_line:
            verb.command_line.add_arguments(words)
        else:
            for parameter in verb.parameters.values():
                _add_argument(words, parameter)
    return root


def _add_argument(words: argparse.ArgumentParser, parameter: inspect.Parameter) -> None:
    """A parameter as words of the command line, by its annotation and default."""
    described = description(parameter)
    assert described is not None, f"{parameter.name} needs an Argument or an Option in its annotation"
    positional, required = isinstance(described, Argument), parameter.default is parameter.empty
    types, several, choices = _read(parameter.annotation)
    settings: dict[str, Any] = {"help": described.help}
    if not required:
        settings["default"] = parameter.default
        if parameter.default is not None and parameter.default is not False and not positional:
            settings["help"] += f" (default {parameter.default})"
    if types == {bool}:
        settings["action"] = "store_true"
    else:
        settings["type"] = next((kind for kind in (int, float) if kind in types), str)
        settings["metavar"] = described.metavar or (parameter.name.upper() if positional else None)
        if choices:
            settings |= {"choices": choices, "metavar": None}
        if several:
            settings["nargs"] = "+" if required or not positional else "*"
        elif positional and not required:
            settings["nargs"] = "?"
    words.add_argument(parameter.name if positional else f"--{parameter.name.replace('_', '-')}", **settings)


def _read(hint: Any) -> tuple[set[type], bool, tuple[str, ...]]:
    """What an annotation allows: the types of one value, whether there may be several, and the words to choose from."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {str}, False, parts
    if hasattr(hint, "__metadata__"):
        return _read(hint.__origin__)
    if origin is None:
        return {hint}, False, ()
    read = [_read(part) for part in parts if part is not types.NoneType]
    several = (origin is not typing.Union and origin is not types.UnionType) or any(part[1] for part in read)
    return set().union(*(part[0] for part in read)), several, next((part[2] for part in read if part[2]), ())
