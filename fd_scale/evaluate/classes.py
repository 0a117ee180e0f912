"""Meaning of a classifier's rows by name, wherever one is kept, resumed or mixed with another."""

from collections.abc import Callable, Sequence
from typing import Any

from fd_scale.data.classes import Classes, Match, classes_of_record, match
from fd_scale.errors import BadInput
from fd_scale.models.weights.heads import NEW, ByName


def rows_by_name(run: Classes, source: str, lines: list[str]) -> ByName:
    """Find the row of the classifier in `source` from which each class of the run starts, for `kept_head`.

    Args:
        lines: what people must be told is added to these.
    """

    def rows(origin: dict[str, Any], before: int) -> list[int] | None:
        there = classes_of_record({**origin, "classes": before}, source)
        try:
            found = match(run, there)
        except BadInput as error:
            raise BadInput(
                f"finetune.head=kept, but {error}, say in finetune.head_classes which goes on from which, or set "
                f"finetune.head=fresh"
            ) from None
        if found.line:
            lines.append(found.line)
            return None
        named = set((there.names or {}).values())
        # A number without a name starts from the row of its number, if that has no name either.
        return [
            found.numbers.get(number, number if number < before and number not in named else NEW)
            for number in range(run.count)
        ]

    return rows


def check_begin(run: Classes, matches: Sequence[Match]) -> Callable[[dict[str, Any], str, bool], list[str]]:
    """Check, for `Parts.check_begin`, that the rows of a checkpoint's classifier are those of this run.

    Args:
        matches: the numbers of the run for the classes of the data sets of `data.train`.
    """

    def check(record: dict[str, Any], where: str, same_run: bool) -> list[str]:
        if "classes" not in record:
            return []  # of a distillation: no classifier
        there = classes_of_record(record, where)
        if there.names is None:
            if not all(found.changes_nothing for found in matches):
                raise BadInput(
                    f"{where} was trained when the data sets of a mixture were united by the numbers of their classes, "
                    f"so that one number stood for several; its classifier is wrong: begin a new run in another "
                    f"run.folder"
                )
            if same_run:
                return []
        found = match(run, there)
        for number, other in found.numbers.items():
            if number != other:
                name = min(run.by_number()[number])
                fix = (
                    "restore the manifest.json that it began with, or give another run.folder"
                    if same_run
                    else "export it with --classifier and begin with student.weights=FILE finetune.head=kept, which "
                    "finds classes by name"
                )
                raise BadInput(f"class {name!r} has number {other} in {where} and {number} in data.train; {fix}")
        return [found.line] if found.line else []

    return check


def align(first: Classes, second: Classes) -> tuple[list[int], Classes, list[str]]:
    """Find the row of the second of two classifiers that means the same class as each row of the first.

    Returns:
        The rows, the classes in the first one's numbers, and what people must be told.

    Raises:
        BadInput: one has a class that the other does not have. As many classes as each other is checked before.
    """
    match(second, first)
    found = match(first, second)
    named = second if first.are_numbers and not second.are_numbers else first  # numbers agree where only one has names
    if found.line:
        return list(range(first.count)), named, [found.line]
    left = iter(sorted(set(range(second.count)) - set(found.numbers.values())))
    return (
        [found.numbers[number] if number in found.numbers else next(left) for number in range(first.count)],
        named,
        [],
    )
