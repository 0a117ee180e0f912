"""A run's configuration: YAML with one level of `base:`, then `key=value`, checked as a whole before anything starts.

The dataclasses belong to the modules that use them, and a task puts them together. pydantic converts and checks the
values. Unknown keys are refused with the nearest known one.
"""

import dataclasses
import difflib
import reprlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pydantic

from fd_scale.errors import BadInput
from fd_scale.fields import formerly, may_differ, without_metadata
from fd_scale.files import parse_yaml, read_small
from fd_scale.odd_values import refuse_odd_values
from fd_scale.redaction import is_redacted, redacted, remember, without_secrets

C = TypeVar("C")


def load_config(owner: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a configuration.

    Args:
        owner: the dataclass of the task, made of the dataclasses of the parts.
        path: a YAML file; a relative path is looked up in the current folder, then among the shipped ones.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        BadInput: in one line, with the file, the key and the fix.
    """
    file = shipped(path)
    tree = _tree(file, overrides)
    remember(tree)
    _refuse_redacted(tree, str(file))
    return validated(owner, tree, f"{file}: ")


def validated(owner: type[C], tree: dict[str, Any], where: str = "", section: str = "") -> C:
    """Make a dataclass of plain values that come from outside.

    Args:
        where: the place they come from, as it begins an error line.
        section: the section that they are in, with the dot behind it.

    Raises:
        BadInput: naming the key, its value and what it may be.
    """
    _refuse_unknown(tree, owner, where, section)
    try:
        return _adapter(owner).validate_python(tree)  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        raise BadInput(f"{where}{section}{_mistake(error, tree)}") from None


@cache
def _adapter(owner: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(owner)


def _mistake(error: pydantic.ValidationError, tree: dict[str, Any]) -> str:
    # Where a field may be of several types, the one that looked deepest into the value is the one that was meant.
    first = max(error.errors(), key=lambda mistake: len(_within(tree, mistake["loc"])))
    key = ".".join(map(str, _within(tree, first["loc"])))
    if first["type"] == "missing":
        return f"{key}{'.' if key else ''}{first['loc'][-1]} is missing; set it in the file or on the command line"
    reason = "a section with keys of its own stands here" if first["type"] == "dataclass_type" else first["msg"]
    given = redacted(first["input"])  # before it is cut, for half an address may not be recognised as one
    return f"{key} = {reprlib.repr(given)}: {reason}"


def sections(path: str | Path, overrides: Sequence[str] = ()) -> set[str]:
    """List the sections of a configuration, which tell of which task it is. Raises BadInput: it cannot be read."""
    return set(_tree(shipped(path), overrides))


def resolved(config: Any) -> dict[str, Any]:
    """Convert the whole configuration to plain YAML values, with defaults and without secrets, to be written down."""
    return redacted(_plain(config))


def completed(owner: Any, stored: Any) -> Any:
    """Complete a stored configuration of `owner`, or of a part of it, with keys that are younger than it.

    Each has the value that does what the code did then: its default, or what `fd_scale.fields.Formerly` says.
    """
    if get_origin(owner) is dict and isinstance(stored, dict):
        return {name: completed(get_args(owner)[1], value) for name, value in stored.items()}
    if not dataclasses.is_dataclass(owner) or not isinstance(stored, dict):
        return stored
    whole = dict(stored)
    for field, hint in _fields(owner):
        before = formerly(hint)
        if field.name in stored:
            whole[field.name] = completed(without_metadata(hint), stored[field.name])
        elif before is not None:
            whole[field.name] = before.value(stored)
        elif field.default_factory is not dataclasses.MISSING:
            whole[field.name] = _plain(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            whole[field.name] = _plain(field.default)
    return whole


def as_it_began(config: C, stored: dict[str, Any]) -> C:
    """Make the configuration of a run that resumes, which keeps what the code did when the run began.

    That is, a key which the stored configuration lacks and which is at its default now has the value of `completed`.
    """
    changes: dict[str, Any] = {}
    for field, hint in _fields(type(config)):
        value, there, before = getattr(config, field.name), stored.get(field.name), formerly(hint)
        if field.name not in stored:
            if before is not None and value == field.default:
                changes[field.name] = before.value(stored)
        elif dataclasses.is_dataclass(value) and isinstance(there, dict):
            changes[field.name] = as_it_began(value, there)
        elif isinstance(value, dict) and isinstance(there, dict):
            changes[field.name] = {
                name: as_it_began(part, there[name])
                if dataclasses.is_dataclass(part) and isinstance(there.get(name), dict)
                else part
                for name, part in value.items()
            }
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def differences(owner: Any, there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """List what two resolved configurations of `owner` disagree in, of the keys that make a run another one.

    That is every key but those that `fd_scale.fields.MayDiffer` marks; secrets do not count. The first configuration
    may be older than some keys, which then have the value of `completed`.
    """
    before, now = (_flattened(without_secrets(tree)) for tree in (completed(owner, there), here))
    return [
        f"{key}: {before.get(key)} there, {now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _may_differ(owner, key.split("."))
    ]


def _may_differ(owner: Any, path: Sequence[str]) -> bool:
    """Whether the key that a path leads to, or a section on its way, may differ between two starts."""
    if get_origin(owner) is dict:
        return _may_differ(get_args(owner)[1], path[1:])
    if not path or not dataclasses.is_dataclass(owner):
        return False
    hint = next((hint for field, hint in _fields(owner) if field.name == path[0]), None)
    return may_differ(hint) or _may_differ(without_metadata(hint), path[1:])


def _flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in _flattened(sub, f"{prefix}.{key}" if prefix else key).items()}


def _fields(owner: Any) -> list[tuple[dataclasses.Field, Any]]:
    """Each field with what its annotation says."""
    hints = get_type_hints(owner, include_extras=True)
    return [(field, hints[field.name]) for field in dataclasses.fields(owner)]


def shipped(path: str | Path) -> Path:
    """Find a file of the user, or else the shipped one of the same relative name, in the checkout or the wheel."""
    path = Path(path)
    if path.exists() or path.is_absolute():
        return path
    package = Path(__file__).resolve().parent
    for root in (package.parent, package / "_shipped"):
        if (root / path).exists():
            return root / path
    return path


def _tree(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    tree = _read_with_base(file)
    for override in overrides:
        _apply_override(tree, override)
    return tree


def _read_with_base(file: Path) -> dict[str, Any]:
    tree = _read_yaml(file)
    base = tree.pop("base", None)
    if base is None:
        return tree
    base_file = file.parent / str(base)
    below = _read_yaml(base_file)
    if "base" in below:
        raise BadInput(f"{base_file} has a `base:` of its own, and {file} builds on it; one level is all there is")
    return _merged(below, tree)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = read_small(file)
    except FileNotFoundError:
        raise BadInput(f"no such config: {file}; see configs/ for examples") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:  # also a date or a number that Python does not take
        raise BadInput(f"{file} is not YAML of settings: {error}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{file} must hold sections such as `data:` and `train:`")
    return tree


def _refuse_redacted(tree: Any, where: str, prefix: str = "") -> None:
    """Raises BadInput: a value is as a run folder stores it, without its secret."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            _refuse_redacted(key, where, prefix)
            _refuse_redacted(value, where, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        for value in tree:
            _refuse_redacted(value, where, prefix)
    elif isinstance(tree, str) and is_redacted(tree):
        raise BadInput(
            f"{where}: {prefix} = {tree} was written down without its secret, which stands in no file of a run; give "
            f"the whole value, for example {prefix}=... on the command line"
        )


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadInput(f"`{override}` on the command line is not key=value; write for example train.seed=1")
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise BadInput(f"`{override}` on the command line: {section} is a value, not a section")
    try:
        refuse_odd_values(text)
    except ValueError as error:
        raise BadInput(f"{key} on the command line{error}") from None
    try:
        tree[last] = parse_yaml(text)
    except ValueError:  # no YAML, or what no setting is: a word that its field takes or refuses
        tree[last] = text


def _within(tree: Any, location: Sequence[int | str]) -> list[int | str]:
    """The part of pydantic's location that is keys of the tree; it puts the names of types among them."""
    found = []
    for part in location:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and part in range(len(tree))):
            tree = tree[part]  # type: ignore[index]
            found.append(part)
    return found


def _refuse_unknown(tree: Any, owner: Any, where: str, prefix: str = "") -> None:
    if not isinstance(tree, dict):
        return
    if get_origin(owner) is dict:  # names of the user's, each with a section of its own
        for name, value in tree.items():
            _refuse_unknown(value, get_args(owner)[1], where, f"{prefix}{name}.")
    if not dataclasses.is_dataclass(owner):
        return
    fields = {field.name: without_metadata(hint) for field, hint in _fields(owner)}
    for key, value in tree.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            advice = f"did you mean `{prefix}{near[0]}`?" if near else f"known here: {', '.join(fields)}"
            raise BadInput(f"{where}unknown key `{prefix}{key}`; {advice}")
        _refuse_unknown(value, fields[key], where, f"{prefix}{key}.")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
