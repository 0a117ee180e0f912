"""Classes by name: what is matched, by number only where a side has no names, and what is refused."""

import pytest
from data.named import coloured, names_seen
from PIL import Image

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.classes import Classes, classes_of_data, classes_of_record, match, unite
from fd_scale.data.config import DataConfig, EvaluationView, ViewConfig
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.loader import TrainingData
from fd_scale.data.packing.pack import pack
from fd_scale.data.shards import ClassCount
from fd_scale.errors import BadInput


def classes(*names: str, owner: str = "", **numbered: int) -> Classes:
    numbers = {name: number for number, name in enumerate(names)} | numbered
    return Classes(1 + max(numbers.values()), numbers, owner)


def numbers_of(*numbers: int, owner: str = "") -> Classes:
    """As shards that are labelled by integers have them."""
    return Classes(1 + max(numbers), {str(number): number for number in numbers}, owner)


FOUR = classes("ant", "bee", "cat", "dog", owner="train")


@pytest.mark.parametrize(
    ("given", "known", "numbers"),
    [
        (classes("bee", "cat", "dog"), FOUR, {0: 1, 1: 2, 2: 3}),
        (classes("dog", "cat", "bee", "ant"), FOUR, {0: 3, 1: 2, 2: 1, 3: 0}),
        (classes("bee"), classes(ant=3, bee=7), {0: 7}),
        (numbers_of(3, 7), classes("3", "7"), {3: 0, 7: 1}),
        (classes("0", "1", "10", "2"), numbers_of(0, 1, 2, 10), {0: 0, 1: 1, 2: 10, 3: 2}),
        (classes("1", "01"), classes("01", "1"), {0: 1, 1: 0}),
    ],
)
def test_a_class_is_found_by_its_name(given, known, numbers):
    found = match(given, known)
    assert found.numbers == numbers
    assert found.line is None


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (numbers_of(1, 3, owner="val"), FOUR),
        (FOUR, numbers_of(0, 1, 2, 3, 9, owner="train")),
        (numbers_of(1, 2, owner="val"), Classes(4, None, "old")),
        (Classes(4, None, "old"), FOUR),
        (Classes(4, None, "old"), Classes(4, None, "older")),
    ],
)
def test_numbers_count_where_a_side_has_no_names_and_a_line_says_so(given, known):
    found = match(given, known)
    assert found.numbers
    assert found.changes_nothing
    assert found.line is not None
    assert "by number: no names in" in found.line


@pytest.mark.parametrize(
    ("given", "known", "line"),
    [
        (classes("bee", "eel", "fox", owner="val"), FOUR, "class 'eel' of val is not among the 4 classes of train"),
        (classes("Ant", "bee", owner="val"), FOUR, "class 'Ant' of val"),
        (classes("ant ", owner="val"), FOUR, "class 'ant ' of val"),
        (numbers_of(0, 4, owner="val"), FOUR, "class 4 of val"),
        (numbers_of(0, owner="val"), classes(ant=1, bee=2), "class 0 of val"),
        (FOUR, Classes(3, None, "old"), "class 3 of train is not among the 3 classes of old"),
        # All are numbers and say more than their order: nothing is taken for a lack of names.
        (numbers_of(0, 1, 2, owner="val"), classes("0", "1", "10", owner="train"), "class '2' of val"),
        (numbers_of(3, 4, owner="val"), classes("10", "20", "30", "40", "50"), "class '3' of val"),
        (numbers_of(0, 1, owner="val"), classes("0", "ant", "bee"), "class '1' of val"),
        (classes("1", **{"01": 0}), classes("1", "01"), "stands for class '01' and for another one"),
    ],
)
def test_a_class_that_is_not_known_is_named(given, known, line):
    with pytest.raises(BadInput) as refused:
        match(given, known)
    assert line in str(refused.value)


def test_a_mixture_numbers_all_names_by_one_rule():
    whole, matches = unite([classes("ant", "dog"), classes("bee", "dog")])
    assert whole.names == {"ant": 0, "bee": 1, "dog": 2}
    assert [found.numbers for found in matches] == [{0: 0, 1: 2}, {0: 1, 1: 2}]
    assert not all(found.changes_nothing for found in matches)


@pytest.mark.parametrize(
    "parts", [[FOUR], [FOUR, FOUR], [numbers_of(3, 7), numbers_of(7, 9)], [classes("0", "1", "10", "2")] * 2]
)
def test_data_sets_that_agree_keep_their_numbers(parts):
    whole, matches = unite(parts)
    assert all(found.changes_nothing for found in matches)
    assert whole == Classes(
        max(part.count for part in parts), {name: number for part in parts for name, number in part.names.items()}
    )


def test_labels_without_names_join_a_mixture_only_where_the_names_have_one_number():
    numbers = numbers_of(0, 3, owner="numbers")
    whole, matches = unite([FOUR, numbers])
    assert whole == FOUR
    assert matches[1].numbers == {0: 0, 3: 3}
    assert "by number: no names in numbers" in matches[1].line
    with pytest.raises(BadInput, match="labels of numbers are numbers without names, and the other data sets"):
        unite([FOUR, classes("bee"), numbers])


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ([("ant", 0, 3), ("ant", 1, 3)], "lists class 'ant' twice"),
        ([("ant", -1, 6)], "gives class 'ant' label -1 and 6 samples"),
        ([("ant", "0", 6)], "gives class 'ant' label '0'"),
        ([("ant", 0, None)], "label 0 and None samples"),
        ([("ant", 0, 4)], "2 of 6 samples in shards have no label"),
        ([], "6 of 6 samples in shards have no label"),
    ],
)
def test_a_table_that_says_nothing_or_two_things_is_refused(table, line):
    with pytest.raises(BadInput) as refused:
        classes_of_data([ClassCount(*row) for row in table], 6, "shards")
    assert line in str(refused.value)


def test_a_class_whose_images_were_all_left_out_is_absent_and_keeps_its_number():
    found = classes_of_data([ClassCount("ant", 0, 3), ClassCount("bee", 1, 0), ClassCount("cat", 2, 3)], 6, "shards")
    assert found == Classes(3, {"ant": 0, "cat": 2})


@pytest.mark.parametrize("names", [["ant"], {"ant": "0"}, {"ant": 2}, {"ant": -1}])
def test_a_damaged_record_of_names_is_refused(names):
    with pytest.raises(BadInput, match=r"file holds a damaged table of classes \(class_names\)"):
        classes_of_record({"classes": 2, "class_names": names}, "file")


def test_labels_of_a_mixture_and_of_its_validation_are_those_of_their_names(tmp_path):
    parts = [
        coloured(tmp_path / name, dict.fromkeys(names, 8))
        for name, names in (("first", ("cat", "dog")), ("second", ("ant", "dog")), ("validation", ("bee", "cat")))
    ]
    config = DataConfig({str(parts[0]): 1.0, str(parts[1]): 1.0}, ViewConfig(image_size=16), workers=0)
    data = TrainingData(config, seed=0, labelled=True)
    assert data.classes == classes("ant", "cat", "dog")
    seen = []
    for batch in data.micro_batches(range(4), 0, BatchPlan(8, 8, 1)):
        seen += names_seen(batch.images, batch.labels, data.classes)
    assert {pair[0] for pair in seen} == {"ant", "cat", "dog"}
    assert all(colour == label for colour, label in seen)

    with pytest.raises(BadInput, match=r"class 'bee' of .* is not among the 3 classes of data\.train"):
        EvaluationData(str(parts[2]), 16, EvaluationView(), 0, data.classes)
    all_four = classes("dog", "cat", "bee", "ant")
    validation = EvaluationData(str(parts[2]), 16, EvaluationView(), 0, all_four)
    (batch,) = validation.batches(0, 1, 16)
    assert all(colour == label for colour, label in names_seen(batch.images, batch.labels, all_four))
    assert set(batch.labels.tolist()) == {1, 2}


# "é" is one letter in NFC, and a letter with an accent after it in NFD, as macOS names folders.
NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_a_name_is_the_same_in_both_spellings_of_an_accent():
    given = classes_of_data([ClassCount("ant", 0, 2), ClassCount(NFD, 1, 2)], 4, "val")
    known = classes_of_data([ClassCount(NFC, 0, 2), ClassCount("zebra", 1, 1), ClassCount("ant", 2, 2)], 5, "train")
    assert match(given, known).numbers == {0: 2, 1: 0}
    of_a_file = classes_of_record({"classes": 2, "class_names": {NFD: 1, "ant": 0}}, "export")
    assert match(given, of_a_file).numbers == {0: 0, 1: 1}
    whole, _ = unite([given, classes_of_data([ClassCount(NFC, 0, 2)], 2, "other")])
    assert whole.count == 2


def test_two_classes_that_only_an_encoding_tells_apart_are_refused(tmp_path):
    with pytest.raises(BadInput, match="twice"):
        classes_of_data([ClassCount(NFC, 0, 2), ClassCount(NFD, 1, 2)], 4, "data")
    with pytest.raises(BadInput, match="alike but for the bytes of an accent"):
        classes_of_record({"classes": 2, "class_names": {NFC: 0, NFD: 1}}, "export")
    for name in (NFC, NFD):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / name / "0.png")
    with pytest.raises(BadInput, match="one name in two spellings of Unicode"):
        pack(tmp_path / "images", tmp_path / "shards")
