"""Facts of a field beside its type.

They are the range of a number, whether it may differ between two starts of one run, and what a key was before it
existed.

It is in the annotation: `workers: Annotated[int, Range(0, 1024), MayDiffer()] = 4`. A range is checked wherever values
come in from outside: by pydantic when a configuration is loaded (`fd_scale.config`), by `within_ranges` when a function
is called.

A leaf, as `errors` is: every package may import it. It imports pydantic only when pydantic asks, so that `fd-scale
--help` and the launcher stay light.
"""

import functools
import inspect
import math
import reprlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fd_scale.errors import BadInput

F = TypeVar("F", bound=Callable[..., Any])

MOST = 2**31 - 1
"""Of what is counted without a limit of its own: steps, images, classes."""


@dataclass(frozen=True)
class Range:
    """Range of finite numbers from `low` to `high`. `above` and `below`: without that end itself."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):  # no question to ask of whole numbers of any length
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low, high = (str(end) if isinstance(end, int) else f"{end:.6g}" for end in (self.low, self.high))
        if not self.above and not self.below:
            return f"from {low} to {high}"
        return f"{'above' if self.above else 'of at least'} {low} and {'below' if self.below else 'at most'} {high}"

    def advice(self, whole: bool) -> str:
        """Say what to give instead of a value that is refused."""
        return f"give a {'whole ' if whole else ''}number {self}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, ValidationError, core_schema

        def check(value: Any, inner: Callable[[Any], Any]) -> Any:
            number = value
            if value is not None and not isinstance(value, bool):
                try:
                    number = inner(value)  # YAML takes 1e-4 for a word, which is a number all the same
                except ValidationError:
                    number = math.nan
            if number is not None and number not in self:
                raise PydanticCustomError("range", self.advice(source is int))
            return inner(value) if number is None else number

        return core_schema.no_info_wrap_validator_function(check, handler(source))


@dataclass(frozen=True)
class Formerly:
    """Mark of a key whose default does not do what the code did before the key existed.

    A run that was stored without the key continues as it began; see `fd_scale.config.as_it_began`. A key without this
    counts as its default there.
    """

    value: Callable[[dict[str, Any]], Any]
    """The stored section -> the value of the key that does what the code did then."""


@dataclass(frozen=True)
class MayDiffer:
    """Mark of a key, or a whole section, that may differ between two starts of one run.

    It says where the run works and what it writes, and not what it computes. All other keys tell one run from another;
    see `fd_scale.config.differences`.
    """


Count = Annotated[int, Range(1, MOST)]
"""Of something that there must be one of at least."""
Limit = Annotated[int, Range(0, MOST)]
"""A count that may be none."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
Pixels = Annotated[int, Range(1, 65535)]
"""Of a side."""
Workers = Annotated[int, Range(0, 1024)]
"""Processes beside the one that asks for them; 0: none."""
Processes = Annotated[int, Range(1, 1024)]
Share = Annotated[float, Range(0, 1)]
PartialShare = Annotated[float, Range(0, 1, below=True)]
"""Of which something is left."""
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Rate = Annotated[float, Range(0, 1e30)]
"""Of learning."""
NotNegative = Annotated[float, Range(0, 1_000_000)]
Positive = Annotated[float, Range(0, 1_000_000, above=True)]
Minutes = Annotated[float, Range(0, 100_000, above=True)]


def within_ranges(function: F) -> F:
    """Refuse, with `BadInput`, arguments of a function that are not within the ranges of its annotations."""

    @functools.cache
    def ranges() -> tuple[inspect.Signature, dict[str, tuple[Range, bool]]]:
        signature = inspect.signature(function)
        # Not `typing.get_type_hints`: the type of the result may be a name that only type checkers import.
        found = {name: range_of(parameter.annotation) for name, parameter in signature.parameters.items()}
        return signature, {name: pair for name, pair in found.items() if pair}

    @functools.wraps(function)
    def checked(*positional: Any, **named: Any) -> Any:
        signature, known = ranges()
        for name, value in signature.bind(*positional, **named).arguments.items():
            if name in known:
                allowed, whole = known[name]
                for number in value if isinstance(value, list | tuple) else [value]:
                    fits = number in allowed and not (whole and isinstance(number, float))
                    if number is not None and not fits:
                        raise BadInput(f"{name}={reprlib.repr(number)}: {allowed.advice(whole)}")
        return function(*positional, **named)

    return checked  # type: ignore[return-value]


def formerly(hint: Any) -> Formerly | None:
    """Find what an annotation says of the time before its key."""
    return next((entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Formerly)), None)


def may_differ(hint: Any) -> bool:
    """Whether an annotation says that its key may differ; see `MayDiffer`."""
    return any(isinstance(entry, MayDiffer) for entry in getattr(hint, "__metadata__", ()))


def without_metadata(hint: Any) -> Any:
    """Strip an annotation to its type."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def range_of(hint: Any) -> tuple[Range, bool] | None:
    """Find the range in an annotation, and whether its numbers are whole.

    The range may be of the elements of a sequence, or of a value that may be None.
    """
    for entry in getattr(hint, "__metadata__", ()):
        if isinstance(entry, Range):
            return entry, hint.__origin__ is int
    return next((found for part in typing.get_args(hint) if (found := range_of(part))), None)
