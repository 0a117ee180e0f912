"""The keys of a configuration, read from its dataclasses: as commented YAML to start from, and as a page of the docs.

Name, type, range and default are those of the field, its description is the docstring beneath it, and
`fields.MayDiffer` says whether two starts of one run may differ in it. Nothing is said here that is not said there.

Leaves out which tasks there are: whoever asks hands in the dataclass of each. Imports no torch, nor do these.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from fd_scale.fields import Range, may_differ, without_metadata

REQUIRED = object()
"""The default of a key that has none."""
WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number"}
WIDTH = 100  # columns of YAML, comments included
NAME = "NAME"
"""Stands for a name of the user's."""
RENEW = "fd-scale keys --markdown > docs/configuration.md"


@dataclass(frozen=True)
class Key:
    """One key of a configuration, or a section of it."""

    path: str
    """As on a command line, such as data.view.flip."""
    kind: str
    """What values it takes, in words; empty for a section."""
    default: Any
    """As plain YAML, or `REQUIRED`."""
    description: str
    may_differ: bool
    """Between two starts of one run."""
    keys: tuple["Key", ...] = ()
    """Of a section."""
    named: bool = False
    """Whether it holds sections with these keys by names of the user's, instead of the keys themselves."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def keys_of(owner: Any, prefix: str = "", default: Any = REQUIRED, free: bool = False) -> tuple[Key, ...]:
    """List the keys of a dataclass.

    Args:
        prefix: of their paths, with the dot behind it.
        default: the section that counts where a configuration says nothing; without one the fields' own defaults count.
        free: whether two starts may differ in the whole section.
    """
    hints = get_type_hints(owner, include_extras=True)
    said = descriptions(owner)
    found = []
    for field in dataclasses.fields(owner):
        hint, path = hints[field.name], f"{prefix}{field.name}"
        kind, there = without_metadata(hint), _default(field) if default is REQUIRED else getattr(default, field.name)
        free_here, described = free or may_differ(hint), said.get(field.name, "")
        if dataclasses.is_dataclass(kind):
            keys = keys_of(kind, f"{path}.", there, free_here)
            found.append(Key(path, "", there, described, free_here, keys))
        elif get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
            keys = keys_of(get_args(kind)[1], f"{path}.{NAME}.", free=free_here)
            found.append(Key(path, "sections by name", _plain(there), described, free_here, keys, named=True))
        else:
            found.append(Key(path, _words(hint), _plain(there), described, free_here))
    return tuple(found)


def descriptions(owner: Any) -> dict[str, str]:
    """Collect the docstrings beneath the fields of a dataclass and of those that it inherits from."""
    found = {}
    for each in reversed(owner.__mro__):
        if dataclasses.is_dataclass(each):
            for before, node in zip(_body(each), _body(each)[1:], strict=False):
                is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
                    found[before.target.id] = inspect.cleandoc(node.value.value)  # type: ignore[attr-defined]
    return found


def as_yaml(task: str, owner: Any) -> str:
    """Write a configuration of a task with every key, its description in comments and its default as value."""
    keys = keys_of(owner)
    head = (
        f"Every key of `fd-scale {task}` with its default. One without a value is required. Remove what you do not "
        "change: a key that is left out has its default."
    )
    if any(key.may_differ for key in keys):
        head += (
            " What may differ between two starts of one run is marked; any other key that differs makes another run, "
            "which needs a folder of its own."
        )
    return "\n".join([*_comment(head, ""), *_yaml_lines(keys, "")]) + "\n"


def as_markdown(tasks: Mapping[str, Any]) -> str:
    """Write the page of the docs: every key of every task, with sections that tasks share described once."""
    parts = [
        f"""# Configuration

Every key that a configuration may have, by task. This page is made from the dataclasses of the code by

```sh
{RENEW}
```

`fd-scale keys TASK` prints the same as commented YAML to start from. A configuration is a YAML file: sections, and keys
in them. One level of `base: FILE` takes what another file says, and `key=value` on the command line comes last, such as
`data.view.flip=0`. A key that is left out has its default. Keys that are *required* have none. A key that *may differ*
may have another value when a run is started again in its folder; any other makes another run, and is refused there."""
    ]
    described: list[tuple[str, Key]] = []
    for names, owner in _grouped(tasks):
        parts.append("## " + " and ".join(f"`fd-scale {name}`" for name in names))
        new, shared = [], dict[str, list[str]]()
        for key in keys_of(owner):
            task = next((task for task, before in described if key.keys and _alike(before, key)), None)
            if task is None:
                new.append(key)
            else:
                shared.setdefault(task, []).append(f"`{key.path}`")
        for task, paths in shared.items():
            parts.append(f"The sections {', '.join(paths)} are those of `fd-scale {task}`.")
        parts += _markdown(new)
        described += [(names[0], key) for key in new]
    return "\n\n".join(parts) + "\n"


def _grouped(tasks: Mapping[str, Any]) -> list[tuple[list[str], Any]]:
    """Names of the tasks that share a dataclass, with it."""
    groups: dict[Any, list[str]] = {}
    for name, owner in tasks.items():
        groups.setdefault(owner, []).append(name)
    return [(names, owner) for owner, names in groups.items()]


def _alike(one: Key, other: Key) -> bool:
    """Whether two sections are the same for whoever reads of their keys."""
    return (one.path, one.may_differ, one.keys) == (other.path, other.may_differ, other.keys)


def _markdown(keys: Sequence[Key]) -> Iterator[str]:
    """Keys as a list, then each section under a heading of its own."""
    yield from (_entry(key) for key in keys if not key.keys)
    for key in keys:
        if key.keys:
            yield f"### `{key.path}.{NAME}`" if key.named else f"### `{key.path}`"
            yield key.description
            yield from _markdown(key.keys)


def _entry(key: Key) -> str:
    default = "*required*" if key.default is REQUIRED else f"default `{_value(key.default)}`"
    facts = [f"- **`{key.path}`**", key.kind, default, *(["*may differ*"] if key.may_differ else [])]
    return " · ".join(facts) + "\n\n" + textwrap.indent(key.description, "  ")


def _yaml_lines(keys: Sequence[Key], indent: str) -> Iterator[str]:
    for key in keys:
        if not indent:
            yield ""
        yield from _comment(key.description, indent)
        if key.keys and not key.named:
            yield f"{indent}{key.name}:"
            yield from _yaml_lines(key.keys, f"{indent}  ")
            continue
        value = "" if key.default is REQUIRED else f" {_value(key.default)}"
        facts = [key.kind, *(["required"] if not value else []), *(["may differ"] if key.may_differ else [])]
        yield f"{indent}{key.name}:{value}  # {', '.join(facts)}"
        if key.named:
            yield f"{indent}# {NAME}:"
            yield from (f"{indent}# {line}".rstrip() for line in _yaml_lines(key.keys, "  "))


def _comment(text: str, indent: str) -> list[str]:
    """Wrapped anew; the entries of a list stay apart."""
    prefix = f"{indent}# "
    lines: list[str] = []
    for block in text.replace("\n- ", "\n\n- ").split("\n\n"):
        words, further = " ".join(block.split()), prefix + "  " * block.startswith("- ")
        wrap = textwrap.TextWrapper(WIDTH, prefix, further, break_long_words=False, break_on_hyphens=False)
        lines += wrap.wrap(words)
    return lines


def _value(value: Any) -> str:
    """In one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").removesuffix("\n")


def _words(hint: Any) -> str:
    """What values an annotation allows."""
    limits = "".join(f" {entry}" for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Range))
    kind = without_metadata(hint)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in parts)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _words(part) for part in parts)
    if origin is tuple:
        several = _of_several(parts[0])
        return f"list of {several}" if parts[-1] is Ellipsis else f"list of {len(parts)} {several}"
    if origin is dict:
        return f"mapping of names to {_of_several(parts[1])}"
    return WORDS[kind] + limits


def _of_several(hint: Any) -> str:
    return _words(hint).replace("number", "numbers", 1)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _body(owner: Any) -> list[ast.stmt]:
    return _classes(inspect.getfile(owner))[owner.__name__]


@cache
def _classes(file: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
