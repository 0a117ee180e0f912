"""Choice of the tensors of a file that are meant.

They are under a usual key, the average of the weights where there is one, or under a key that was asked for.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.config import RAW

AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
"""Keys under which training scripts keep a moving average of the weights beside them. It is what they evaluate, so it
is what is taken; for teachers, students and conversion alike."""
WRAPPERS = ("model", "state_dict", "teacher", "student", "module")
"""Keys under which published files hold the tensors, in order of preference. DINO's teacher is the average of its
student, and what its authors evaluate."""
LONGEST_KEY = 80
"""Letters of a key that are shown."""
DEEPEST = 4
"""Wrappers around wrappers that are looked into."""


def unwrapped(content: Any, key: str | None, what: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Find the tensors in what a file held, the keys that led to them, and what was left aside."""
    keys: list[str] = []
    aside: list[str] = []
    if key is not None and key != RAW:
        content, keys, aside = _under(content, key, what)
    usual = WRAPPERS if key == RAW else (*AVERAGES, *WRAPPERS)
    around: list[Any] = []
    while (name := next((name for name in usual if _leads_on(content, name)), None)) is not None:
        around.append(content)
        if any(content[name] is outer for outer in around) or len(around) > DEEPEST:
            raise BadInput(f"{what} holds itself under {name}, or wrappers without end; save its state dict alone")
        aside += [_short(other) for other in content if other != name]
        keys.append(name)
        content = content[name]
    if not isinstance(content, Mapping):
        raise BadInput(f"{what} holds a {type(content).__name__}, not a mapping of tensors; save its state dict alone")
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        known = ", ".join((*AVERAGES, *WRAPPERS))
        raise BadInput(
            f"{what} holds no tensors by name, at its root or under {known}; its keys: {few(content)}; "
            "save its state dict alone"
        )
    aside += [_short(name) for name, value in content.items() if not isinstance(value, Tensor)]
    prefix = None if key == RAW else next((name for name in AVERAGES if _is_average(name, tensors)), None)
    if prefix is not None:
        tensors, left = _beginning_with(tensors, prefix)
        keys, aside = [*keys, prefix], [*aside, *left]
    return tensors, keys, aside


def _under(content: Any, key: str, what: str) -> tuple[Mapping[str, Any], list[str], list[str]]:
    """The tensors under a key that the user named, as for `unwrapped`."""
    keys: list[str] = []
    aside: list[str] = []
    whole, rest = content, key
    while rest:
        name = next((n for n in _beginnings(rest) if isinstance(_get(content, n), Mapping)), None)
        if name is None:
            break
        aside += [_short(other) for other in content if other != name]
        keys.append(name)
        content, rest = content[name], rest[len(name) + 1 :]
    if rest:
        tensors, left = _beginning_with(content if isinstance(content, Mapping) else {}, rest)
        if not tensors:
            raise BadInput(f"{what} holds no mapping under {key!r}; its keys: {few(whole)}")
        content, keys, aside = tensors, [*keys, rest], [*aside, *left]
    return content, keys, aside


def _beginnings(key: str) -> list[str]:
    """a.b.c -> a.b.c, a.b, a"""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _leads_on(content: Any, name: str) -> bool:
    """Whether tensors stand under a usual key."""
    if name == "ema_state_dict" and _get(content, "message_hub") is not None:
        return False  # MMEngine exchanges the two before it saves: its average is `state_dict`
    return isinstance(_get(content, name), Mapping) and _holds_tensors(content[name])


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    """To a limited depth. Each mapping is looked into once, however often it is in others or in itself."""
    level, known = [content], {id(content)}
    for _ in range(DEEPEST):
        values = [value for mapping in level for value in mapping.values()]
        if any(isinstance(value, Tensor) for value in values):
            return True
        level = []
        for value in values:
            if isinstance(value, Mapping) and id(value) not in known:
                known.add(id(value))
                level.append(value)
    return False


def _is_average(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether names that begin so are those of a model, and not of the numbers that an average keeps for itself."""
    return any(name.startswith(f"{prefix}.") and name.count(".") > 2 for name in tensors)


def _beginning_with(content: Mapping[Any, Any], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors whose names begin with a prefix, without it, and the beginnings of all other names."""
    found = {
        name.removeprefix(f"{prefix}."): value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor) and name.startswith(f"{prefix}.")
    }
    names = [name if isinstance(name, str) else _short(name) for name in content]
    others = dict.fromkeys(name.split(".")[0] for name in names if not name.startswith(f"{prefix}."))
    return found, list(others)


def _get(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, Mapping) else None


def _short(name: Any) -> str:
    """Of a key of a file, which may be any object."""
    text = name if isinstance(name, str) else reprlib.repr(name)
    return text if len(text) <= LONGEST_KEY else f"{text[:LONGEST_KEY]}..."


def few(content: Any) -> str:
    names = [_short(name) for name in content] if isinstance(content, Mapping | list) else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
