"""Every number that comes from outside has a range: in a configuration's fields and among the arguments of a verb."""

import copy
import dataclasses
import inspect
import math
import typing
from collections.abc import Iterator

import pytest
from support.helpers import REPOSITORY

from fd_scale.config import load_config, resolved, validated
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.fields import Range, range_of, without_metadata
from fd_scale.launch import launch
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig
from fd_scale.verbs.verb import registered

JOBS = {
    DistillConfig: "demo/swin_v2.yaml",
    FinetuneJobConfig: "finetune/clip_vit_b16.yaml",
    ProbeJobConfig: "linear/clip_vit_b16.yaml",
}
MORE = {
    FinetuneJobConfig: {"data.train": {"shards": 1.0}},
    DistillConfig: {"more_teachers": {"other": {"spec": "demo", "weight": 1.0}}, "data.train": {"shards": 1.0}},
}


def numbers(owner: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], typing.Any, Range | None]]:
    """Path, type and range of every number in a configuration, sections by a name of the user's included."""
    for field in dataclasses.fields(owner):
        annotation = typing.get_type_hints(owner, include_extras=True)[field.name]
        hint = without_metadata(annotation)
        path = (*prefix, field.name)
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint, path)
        elif typing.get_origin(hint) is dict:
            yield from numbers(typing.get_args(hint)[1], (*path, "other"))
        elif kinds := _kinds(hint) & {int, float}:
            found = range_of(annotation)
            yield path, kinds.pop(), found[0] if found else None


def _kinds(hint: typing.Any) -> set[type]:
    """The types that an annotation is made of."""
    parts = hint if isinstance(hint, list) else typing.get_args(hint)  # a list: what a function takes
    return set().union(*map(_kinds, parts)) if parts or isinstance(hint, list) else {hint}


@pytest.mark.parametrize("owner", JOBS, ids=lambda owner: owner.__name__)
def test_every_number_of_a_configuration_has_a_range_that_is_checked(owner):
    whole = resolved(load_config(owner, REPOSITORY / "configs" / JOBS[owner]))
    for path, value in MORE.get(owner, {}).items():
        _set(whole, path.split("."), value)
    checked = 0
    for path, kind, allowed in numbers(owner):
        assert allowed is not None, f"{'.'.join(path)} has no range"
        assert math.isfinite(allowed.low), path
        assert math.isfinite(allowed.high), path
        beyond = [
            allowed.low if allowed.above else allowed.low - 1,
            allowed.high if allowed.below else allowed.high * 10,
        ]
        for value in (*beyond, math.nan, math.inf, -math.inf, True, ".nan", "1e400", "many"):
            tree = copy.deepcopy(whole)
            before = _get(tree, path)
            tuples = {"betas": 2, "crop_scale": 2, "crop_ratio": 2, "pretrained_window": 4, "k": 1, "base_lrs": 1}
            if isinstance(before, dict):
                _set(tree, [*path, "shards"], value)
            else:
                _set(tree, path, [value] * tuples[path[-1]] if path[-1] in tuples else value)
            with pytest.raises(BadInput) as refused:
                validated(owner, tree)
            line = str(refused.value)
            assert line.startswith(".".join(path)), line
            assert line.endswith(allowed.advice(kind is int)), line
            checked += 1
    assert checked > 100


def test_the_ends_of_a_range_are_taken_where_they_belong_to_it():
    assert 0 in Range(0, 1)
    assert 1 in Range(0, 1)
    assert 0 not in Range(0, 1, above=True)
    assert 1 not in Range(0, 1, below=True)
    assert str(Range(0, 1)) == "from 0 to 1"
    assert str(Range(0, 1, above=True)) == "above 0 and at most 1"
    assert str(Range(0, 1, below=True)) == "of at least 0 and below 1"


VERBS = [*(verb.function for verb in registered()), launch]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_number_that_a_verb_takes_has_a_range_that_is_checked(verb):
    parameters = inspect.signature(inspect.unwrap(verb)).parameters
    required = [parameter.name for parameter in parameters.values() if parameter.default is parameter.empty]
    for name, parameter in parameters.items():
        hint = parameter.annotation
        if name == "grace_seconds" or not _kinds(hint) & {int, float}:
            continue
        found = range_of(hint)
        assert found, f"{name} has no range"
        for value in (found[0].low - 1, found[0].high * 10, math.nan, math.inf, True):
            given = dict.fromkeys(required, "/nowhere") | {name: value}
            with pytest.raises(BadInput, match=f"^{name}=.*: give a "):
                verb(**given)


def _get(tree: typing.Any, path: typing.Sequence[str]) -> typing.Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: dict, path: typing.Sequence[str], value: typing.Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
