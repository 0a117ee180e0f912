"""Tables: odd values for any field, and every field of every configuration."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

NUMBERS = (
    *("0", "1", "-1", "2", "3", "7", "0.5", "1.5", "-0.0", "1e-320", "1e30", "1e308", "1e400", ".nan", ".inf", "-.inf"),
    *("2147483647", "2147483648", "9223372036854775808", "1" + "0" * 400, "9" * 5000, "0x" + "f" * 5000),
    *("0b1", "1_1", "1:30", "٣"),
)
WORDS = (
    *("", "null", "~", "true", "false", "no", "abc", "'1'", "é", "名前", "\u202e", "a b", "a" * 300, "a" * 5000),
    *('"\\ud800"', '"\\0"', '"a\\nb"', "\udcff", "{}{}", "%s", "=", "a=b", "$(touch x)", "`x`", "*", "-", "--", "@"),
    *("2020-01-01", "2020-13-45", "!!binary aGk=", "!!python/object:os.system x", "!!set {a}", "? x", "<<", "&a 1"),
)
PLACES = (
    *(".", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc/x", "/proc/nowhere/at/all", "file:", "timm:"),
    *("file:/dev/zero", "timm:x@/dev/zero", "s3://", "http://[", "://", "nobody://x", "memory://x", "/etc/passwd"),
)
NESTED = (
    *("[]", "[1]", "[1, 2]", "[1, 1, 1, 1]", "[-1]", "[.nan]", "[[1]]", "[null]", "{}", "{a: 1}", "{a: {b: c}}"),
    *("{1: 2}", "{null: null}", "[", "{", "}", "'", "&a [*a]", "&a {b: *a}", "[" * 40 + "]" * 40, "[" * 3000),
    "[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b,*b],"
    " &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]]",
)
VALUES = (*NUMBERS, *WORDS, *PLACES, *NESTED)


def fields_of(owner: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, sections themselves included, as it is written on a command line."""
    hints = typing.get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        key = f"{prefix}{field.name}"
        yield key
        for kind in _dataclasses(hints[field.name]):
            named = "other." if typing.get_origin(hints[field.name]) is dict else ""
            yield from fields_of(kind, f"{key}.{named}")


def _dataclasses(hint: Any) -> list[Any]:
    if isinstance(hint, type):  # and not what is said beside a type
        return [hint] if dataclasses.is_dataclass(hint) else []
    return [found for part in typing.get_args(hint) for found in _dataclasses(part)]
