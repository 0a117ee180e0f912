"""Verbs as functions: an example, how the result is printed, and what the parameters are for.

The command line is made from the function, so that names, types, defaults and ranges are stated once: a parameter with
`Argument` in its annotation is a positional word, one with `Option` is `--its-name`, and the first line of the
docstring is the help. What is said of the parameters becomes the `Args` of the docstring as well.
"""

import argparse
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fd_scale.fields import within_ranges
from fd_scale.verbs.job import Job

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Argument:
    """A parameter that is a positional word of the command line."""

    help: str
    metavar: str | None = None
    """Its name in the help; by default that of the parameter, in capitals."""


@dataclass(frozen=True)
class Option:
    """A parameter that is an option of the command line, by its own name."""

    help: str
    metavar: str | None = None


Config = Annotated[str | Path, Argument("YAML file; see configs/")]
Overrides = Annotated[
    Sequence[str], Argument("settings in place of the file's, such as train.seed=1 run.folder=runs/b", "key=value")
]


@dataclass(frozen=True)
class CommandLine:
    """Command line of a verb that is not made from its function."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Verb:
    """Facts of a verb that the command line knows."""

    function: Callable[..., Any]
    example: str
    """Behind `fd-scale`; more examples and remarks may follow in further lines."""
    show: Callable[..., None]
    """Prints a result; gets it, and the arguments of the function by name."""
    job: Job | None
    """Of a verb that reads a configuration."""
    command_line: CommandLine | None

    @property
    def name(self) -> str:
        return self.function.__name__.replace("_", "-")

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Parameters of the function by name, with all that their annotations say."""
        return dict(inspect.signature(inspect.unwrap(self.function)).parameters)

    @property
    def help(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


def verb(
    example: str,
    *,
    show: Callable[..., None] = lambda result, **given: None,
    job: Job | None = None,
    command_line: CommandLine | None = None,
) -> Callable[[F], F]:
    """Describe a function as a verb, and refuse numbers that are not within the ranges of its annotations."""

    def describe(function: F) -> F:
        checked = within_ranges(function)
        checked.__doc__ = _documented(function)
        checked.__annotations__ = {name: _plain(hint) for name, hint in function.__annotations__.items()}
        checked.__signature__ = _signature(function, checked.__annotations__)  # type: ignore[attr-defined]
        checked.verb = Verb(checked, example, show, job, command_line)  # type: ignore[attr-defined]
        return checked

    return describe


def description(parameter: inspect.Parameter) -> Argument | Option | None:
    """Find what the annotation of a parameter says for the command line."""
    entries = getattr(parameter.annotation, "__metadata__", ())
    return next((entry for entry in entries if isinstance(entry, Argument | Option)), None)


def _documented(function: Callable[..., Any]) -> str:
    """The docstring, with the help of each parameter as `Args` before `Returns`."""
    found = {name: description(parameter) for name, parameter in inspect.signature(function).parameters.items()}
    entries = [f"    {name}: {described.help}." for name, described in found.items() if described]
    text, returns, rest = (inspect.getdoc(function) or "").partition("Returns:\n")
    return text + "\n".join(["Args:", *entries, "\n"] if entries else []) + returns + rest


def _plain(hint: Any) -> Any:
    """A type as people read it, without what the annotation says beside it."""
    if isinstance(hint, str):
        return hint
    return typing.get_type_hints(type("Holder", (), {"__annotations__": {"hint": hint}}))["hint"]


def _signature(function: Callable[..., Any], hints: dict[str, Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = [entry.replace(annotation=hints[name]) for name, entry in signature.parameters.items()]
    return signature.replace(parameters=parameters)


def print_result(result: Any, **given: Any) -> None:
    print(result)


def registered() -> list[Verb]:
    """List every verb of `fd_scale.verbs.registry`, in its order."""
    from fd_scale.verbs import registry

    return [function.verb for function in vars(registry).values() if hasattr(function, "verb")]


def jobs() -> dict[str, Job]:
    """Map the name of every verb that reads a configuration to its job."""
    return {verb.name: verb.job for verb in registered() if verb.job}
