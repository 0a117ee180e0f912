"""Classes by name: data sets and classifiers that call a class the same mean the same, whatever its number.

A data set numbers its classes in its manifest, a classifier in its rows. Comparing numbers alone would take one class
for another as soon as a class is absent or has another position. Names are compared letter by letter: `Ant` and
`ant` are two classes. A letter with an accent is one letter however its bytes are written (Unicode's NFC, NFD).

Only where one side has no names are numbers compared, and a line says so. A side has none where it is the classifier
of a file that records none, or where each of its names is its own number, as in shards that are labelled by integers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fd_scale.data.numbering import class_numbers, one_spelling
from fd_scale.data.shards import ClassCount
from fd_scale.errors import BadInput

NAMES_KEY = "class_names"
"""Under which the record of a checkpoint, and so an export, holds the number of every class by its name."""


@dataclass(frozen=True)
class Classes:
    """The classes that a data set, a run or a classifier knows."""

    count: int
    """All numbers are below it. Some may belong to no class."""
    names: dict[str, int] | None
    """Number of each class by its name; None where nobody recorded names."""
    owner: str = field(default="", compare=False)
    """For messages: whose classes these are."""

    @property
    def are_numbers(self) -> bool:
        """Whether no name says more than the number of its class."""
        return self.names is None or all(name == str(number) for name, number in self.names.items())

    @property
    def have_words(self) -> bool:
        """Whether a name is something else than a number."""
        return self.names is not None and not all(name.isascii() and name.isdecimal() for name in self.names)

    def by_number(self) -> dict[int, frozenset[str]]:
        """List the names of each number; several where an earlier version numbered `1` and `01` alike."""
        found = defaultdict(set)
        for name, number in (self.names or {}).items():
            found[number].add(name)
        return {number: frozenset(names) for number, names in found.items()}

    def record(self) -> dict[str, Any]:
        """Describe the classes as a checkpoint keeps them."""
        return {"classes": self.count, NAMES_KEY: self.names}


@dataclass(frozen=True)
class Match:
    """Classes of one data set by their numbers in another."""

    numbers: dict[int, int]
    """Own number -> number there."""
    line: str | None = None
    """What people must be told."""

    @property
    def changes_nothing(self) -> bool:
        return all(number == there for number, there in self.numbers.items())


def classes_of_data(entries: Sequence[ClassCount], samples: int, source: str) -> Classes:
    """Read the classes of a data set from the table in its manifest.

    Args:
        entries: that table. A class whose images were all left out keeps its number and counts as absent.
        samples: of the whole data set.

    Raises:
        BadInput: samples without a label, or a table that names a class twice or holds no numbers.
    """
    labelled = [entry for entry in entries if entry.name]
    for entry in labelled:
        counts = (entry.label, entry.samples)
        if not isinstance(entry.name, str) or not all(type(number) is int and number >= 0 for number in counts):
            raise BadInput(
                f"{source}/manifest.json gives class {entry.name!r} label {entry.label!r} and {entry.samples!r} "
                f"samples; pack it again"
            )
    names = [one_spelling(entry.name) for entry in labelled]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{source}/manifest.json lists class {twice!r} twice; pack it again")
    without = samples - sum(entry.samples for entry in labelled)
    if without:
        raise BadInput(
            f"{without} of {samples} samples in {source} have no label; pack class folders, or a list with a column "
            f"`label`"
        )
    count = 1 + max(entry.label for entry in labelled)
    present = {name: entry.label for name, entry in zip(names, labelled, strict=True) if entry.samples}
    return Classes(count, present, source)


def classes_of_record(record: dict[str, Any], owner: str) -> Classes:
    """Read the classes of a classifier from the record of its checkpoint or the origin of its export.

    Raises:
        BadInput: the record holds no table of names.
    """
    count, names = record["classes"], record.get(NAMES_KEY)
    if names is not None and not (
        isinstance(names, dict) and all(type(number) is int and 0 <= number < count for number in names.values())
    ):
        raise BadInput(f"{owner} holds a damaged table of classes ({NAMES_KEY}); export it again")
    if names is not None:
        spelled = {one_spelling(name): number for name, number in names.items()}
        if len(spelled) < len(names):
            raise BadInput(f"{owner} names two classes alike but for the bytes of an accent; fine-tune it again")
        names = spelled
    return Classes(count, names, owner)


def match(given: Classes, known: Classes) -> Match:
    """Translate the numbers of `given` classes to those of the `known` ones, which may be more.

    Raises:
        BadInput: a class of `given` is not among the known; the line names the first one.
    """
    if given.names is None or known.names is None:
        return _by_number(given, known)
    absent = [name for name in sorted(given.names, key=given.names.__getitem__) if name not in known.names]
    if not absent:
        numbers: dict[int, int] = {}
        for name, number in given.names.items():
            if numbers.setdefault(number, known.names[name]) != known.names[name]:
                raise BadInput(
                    f"number {number} of {given.owner} stands for class {name!r} and for another one, which are two "
                    f"classes of {known.owner}; pack {given.owner} again"
                )
        return Match(numbers)
    one_has_words = (given.are_numbers and known.have_words) or (known.are_numbers and given.have_words)
    if one_has_words and len(absent) == len(given.names):
        return _by_number(given, known)
    raise _absent(repr(absent[0]), given, known)


def unite(parts: Sequence[Classes]) -> tuple[Classes, list[Match]]:
    """Unite the classes of a mixture of data sets, and number the classes of each as the mixture does.

    Where data sets agree on the number of every name, as one alone does, they keep their numbers. Otherwise all names
    are numbered anew by the rule of `pack`.

    Raises:
        BadInput: labels without names in a mixture whose names have no agreed numbers.
    """
    words = [part for part in parts if part.have_words]
    named = [part for part in parts if not (words and part.are_numbers and _strangers(part, words))]
    owner = parts[0].owner if len(parts) == 1 else "data.train"
    if _agree(named):
        numbers = {name: number for part in named for name, number in (part.names or {}).items()}
        whole = Classes(max(part.count for part in named), numbers, owner)
    else:
        numbers = class_numbers({name: part.owner for part in named for name in part.names or ()})
        whole = Classes(1 + max(numbers.values()), numbers, owner)
        nameless = [part.owner for part in parts if part not in named]
        if nameless:
            raise BadInput(
                f"the labels of {nameless[0]} are numbers without names, and the other data sets of data.train do not "
                f"agree on the number of each name; pack {nameless[0]} with names"
            )
    return whole, [match(part, whole) for part in parts]


def _by_number(given: Classes, known: Classes) -> Match:
    unknown = given.names is None or known.names is None  # which numbers stand for a class
    numbers = range(given.count) if given.names is None else sorted(given.names.values())
    there = range(known.count) if unknown else set((known.names or {}).values())
    for number in numbers:
        if number not in there:
            raise _absent(str(number), given, known)
    without = [side.owner for side in (given, known) if side.are_numbers]
    line = f"classes of {given.owner} are matched with those of {known.owner} by number: no names in {without[0]}"
    return Match({number: number for number in numbers}, line)


def _absent(shown: str, given: Classes, known: Classes) -> BadInput:
    return BadInput(
        f"class {shown} of {given.owner} is not among the {known.count} classes of {known.owner}; give shards of the "
        f"same classes"
    )


def _strangers(part: Classes, others: Sequence[Classes]) -> bool:
    """Whether no other has a class of these names."""
    return not any(name in (other.names or {}) for name in part.names or () for other in others)


def _agree(parts: Sequence[Classes]) -> bool:
    """Whether a name has one number, and a number one meaning, in all that have it."""
    numbers: dict[str, int] = {}
    names: dict[int, frozenset[str]] = {}
    for part in parts:
        for name, number in (part.names or {}).items():
            if numbers.setdefault(name, number) != number:
                return False
        for number, meaning in part.by_number().items():
            if names.setdefault(number, meaning) != meaning:
                return False
    return True
