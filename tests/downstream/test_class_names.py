"""Labels mean the same classes in training, validation and testing, whatever an annotation file lists first."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from downstream.mini_data import write_mini_data
from mmengine.registry import DATASETS, METRICS
from support.helpers import REPOSITORY

import fd_scale_downstream.__main__ as program
from fd_scale.errors import BadInput
from fd_scale_downstream.class_names import ClassNamesHook
from fd_scale_downstream.coco import CocoByName, CocoMetricByName


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_mini_data(tmp_path_factory.mktemp("data"), images=2)[0]


def changed(folder, path, change):
    """A copy of the annotations with other categories."""
    content = json.loads((folder / "instances_val.json").read_text())
    content["categories"] = change(content["categories"])
    kept = {category["id"] for category in content["categories"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in kept]
    path.write_text(json.dumps(content))
    return str(path)


def labels(path, folder):
    data = CocoByName(ann_file=str(path), data_root=str(folder), data_prefix={"img": "images/"}, test_mode=True)
    return [[instance["bbox_label"] for instance in data[n]["instances"]] for n in range(2)], data


@pytest.mark.parametrize(("change", "absent"), [(lambda found: found[::-1], []), (lambda found: found[1:], [0])])
def test_labels_do_not_depend_on_what_the_file_lists(folder, tmp_path, change, absent):
    expected, data = labels(folder / "instances_val.json", folder)
    path = changed(folder, tmp_path / "other.json", change)
    found, _ = labels(path, folder)
    assert found == [[label for label in image if label not in absent] for image in expected]
    assert sum(map(len, found)) > 0
    metric = CocoMetricByName(ann_file=path)
    metric.dataset_meta = data.metainfo
    ids = metric._coco_api.get_cat_ids(cat_names=data.metainfo["classes"])
    assert len(ids) == len(set(ids)) == 80
    assert [number for number, identity in enumerate(ids) if identity < 0] == absent
    assert all(identity == number + 1 for number, identity in enumerate(ids) if identity >= 0)
    assert [category["name"] for category in metric._coco_api.load_cats(ids)] == list(data.metainfo["classes"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda found: [{**entry, "name": entry["name"].upper()} for entry in found], "none of the 80 classes"),
        (lambda found: [*found, {"id": 99, "name": "person"}], "two categories named 'person'"),
    ],
)
def test_names_that_say_nothing_or_two_things_are_refused(folder, tmp_path, change, line):
    with pytest.raises(BadInput, match=line):
        labels(changed(folder, tmp_path / "other.json", change), folder)


def runner(train=None, val=None, test=None):
    def loop(classes):
        data = SimpleNamespace(dataset=SimpleNamespace(metainfo={"classes": classes}))
        return None if classes is None else SimpleNamespace(dataloader=data)

    train_loader = loop(train).dataloader if train else None
    return SimpleNamespace(train_dataloader=train_loader, val_loop=loop(val), test_loop=loop(test))


def test_validation_and_testing_must_number_classes_as_training_did():
    hook = ClassNamesHook()
    hook.before_train(runner(train=("ant", "bee"), val=["ant", "bee"]))
    hook.before_train(runner(train=("ant", "bee")))
    for other in (["bee", "ant"], ["ant"], ["ant", "bee", "cat"]):
        with pytest.raises(BadInput, match=r"class \d of val_dataloader\.dataset is .* and that of train_dataloader"):
            hook.before_train(runner(train=("ant", "bee"), val=other))
    saved = {"meta": {"dataset_meta": {"classes": ("ant", "bee")}}}
    hook.after_load_checkpoint(runner(test=["ant", "bee"]), saved)
    hook.after_load_checkpoint(runner(test=["bee", "ant"]), {"meta": {}})
    hook.after_load_checkpoint(runner(train=("bee", "ant")), saved)
    with pytest.raises(
        BadInput, match=r"class 0 of test_dataloader\.dataset is 'bee' and that of the checkpoint 'ant'"
    ):
        hook.after_load_checkpoint(runner(test=["bee", "ant"]), saved)


def runners(monkeypatch) -> list:
    """The configs from which runners are made from now on, which do nothing."""
    seen = []

    class Idle:
        @classmethod
        def from_cfg(cls, config):
            seen.append(config)
            idle = {"train": list, "test": list, "register_hook": list.append.__get__([])}
            return SimpleNamespace(rank=0, work_dir=config.work_dir, **idle)

    monkeypatch.setattr(program, "RUNNERS", SimpleNamespace(get=lambda name: Idle))
    return seen


@pytest.mark.parametrize("verb", ["train", "test"])
def test_every_config_is_run_with_the_comparison(verb, folder, monkeypatch, tmp_path):
    seen = runners(monkeypatch)
    config = REPOSITORY / "downstream/configs/coco_mini/upernet_zero3.py"
    program.main([verb, str(config), "--work-dir", str(tmp_path), "--checkpoint", "none.pth"])
    assert {"type": "ClassNamesHook"} in seen[0].custom_hooks


def test_mmdetections_own_data_set_and_metric_find_classes_by_name(folder, monkeypatch, tmp_path, capfd):
    """A user's config that names them trains and scores the classes that it names, whatever the file lists first."""
    seen = runners(monkeypatch)
    other = changed(folder, tmp_path / "other.json", lambda found: found[::-1])
    data = {"type": "CocoDataset", "ann_file": other, "data_root": str(folder), "data_prefix": {"img": "images/"}}
    (tmp_path / "mine.py").write_text(
        f"train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset={data}))\n"
        f"val_evaluator = [dict(type='mmdet.CocoMetric', ann_file={other!r})]\n"
    )
    program.main(["train", str(tmp_path / "mine.py"), "--work-dir", str(tmp_path)])
    errors = capfd.readouterr().err
    assert "mine.py: CocoDataset finds classes by name here" in errors
    assert "mine.py: CocoMetric finds classes by name here" in errors
    built = DATASETS.build({**seen[0].train_dataloader.dataset.dataset, "test_mode": True})
    expected, _ = labels(folder / "instances_val.json", folder)
    assert [[instance["bbox_label"] for instance in built[n]["instances"]] for n in range(2)] == expected
    assert isinstance(METRICS.build(seen[0].val_evaluator[0]), CocoMetricByName)
