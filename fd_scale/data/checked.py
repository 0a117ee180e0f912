"""Conversion of JSON that may be damaged to a dataclass or a named tuple, each field held to its annotation.

pydantic, which reads configurations, refuses text that is not Unicode; names of files may be such text.
"""

import dataclasses
import typing
from typing import Any, TypeVar

from fd_scale.fields import range_of

Owner = TypeVar("Owner")
SHOWN = 60  # letters of a value in a message


class Odd(Exception):
    """Error that says, in a sentence, which field is not what it must be."""


def checked(owner: type[Owner], value: Any, where: str = "") -> Owner:
    """Make an `owner` of the fields that `value` has, and of its defaults for the others.

    Args:
        where: of `value` in the file, for messages.

    Raises:
        Odd: no mapping, a field is missing, of another type or outside of its range.
    """
    if not isinstance(value, dict):
        raise Odd(f"{where or 'it'} is {_shown(value)} and no mapping")
    hints = typing.get_type_hints(owner, include_extras=True)
    optional = getattr(owner, "__dataclass_fields__", None)
    fields = {}
    for name, hint in hints.items():
        path = f"{where}.{name}" if where else name
        if name in value:
            fields[name] = _field(hint, value[name], path)
        elif optional is None or not _has_default(optional[name]):
            raise Odd(f"{path} is missing")
    return owner(**fields)


def _field(hint: Any, value: Any, where: str) -> Any:
    found = range_of(hint)
    if found:
        allowed, whole = found
        may_be_none = type(None) in typing.get_args(hint)
        if not (value is None and may_be_none) and (value not in allowed or (whole and not isinstance(value, int))):
            raise Odd(f"{where} is {_shown(value)}, no {'whole ' if whole else ''}number {allowed}")
        return value
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        if not isinstance(value, list):
            raise Odd(f"{where} is {_shown(value)} and no list")
        of = typing.get_args(hint)[0]
        return tuple(checked(of, entry, f"{where}[{number}]") for number, entry in enumerate(value))
    if not isinstance(value, kind) or (kind is str and "\0" in value):
        raise Odd(f"{where} is {_shown(value)} and no {'text' if kind is str else 'mapping'}")
    return value


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
