"""MMEngine compares labels by number; here data sets and checkpoints that number their classes differently are refused.

`python -m fd_scale_downstream` adds the hook to every config. Numbers of a data set are in its index maps and cannot
be told in others', so that the names have to agree in order. COCO's annotations name their categories, and are read by
name: also where a config asks for MMDetection's own data set and metric, which number them as a file lists them.
"""

import importlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from fd_scale.errors import BadInput

BY_NAME = {"CocoDataset": "CocoByName", "CocoMetric": "CocoMetricByName"}
"""MMDetection's classes and those of `fd_scale_downstream.coco` that take their place; derived ones stay."""


def find_by_name(section: Any) -> set[str]:
    """Put classes that find COCO's categories by name into a section of a config, in place.

    Returns:
        MMDetection's names of what was replaced.
    """
    found: set[str] = set()
    if isinstance(section, dict):
        kind = section.get("type")
        name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")  # a config may give the class itself
        short = name.rpartition(".")[2]
        if short in BY_NAME:
            importlib.import_module("fd_scale_downstream.coco")  # registers them; needs MMDetection
            section["type"] = BY_NAME[short]
            found.add(short)
    children = section.values() if isinstance(section, dict) else section if isinstance(section, list | tuple) else ()
    return found.union(*map(find_by_name, children))


@HOOKS.register_module()
class ClassNamesHook(Hook):
    def before_train(self, runner: Any) -> None:
        """Refuse validation data that number their classes otherwise than training.

        Raises:
            BadInput: they do.
        """
        if runner.val_loop is not None:
            _compare(
                _of_data(runner.val_loop.dataloader),
                _of_data(runner.train_dataloader),
                "val_dataloader.dataset",
                "train_dataloader.dataset",
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to test a model whose classes were numbered otherwise in training.

        Raises:
            BadInput: they were.
        """
        if runner.test_loop is not None and not isinstance(runner.test_loop, dict):
            known = checkpoint.get("meta", {}).get("dataset_meta") or {}
            tested = _of_data(runner.test_loop.dataloader)
            _compare(tested, _classes(known), "test_dataloader.dataset", "the checkpoint")


def _of_data(loader: Any) -> Sequence[str]:
    return _classes(getattr(loader.dataset, "metainfo", {}))


def _classes(meta: dict[str, Any]) -> Sequence[str]:
    return meta.get("classes") or meta.get("CLASSES") or ()  # capitals in files of earlier versions


def _compare(ours: Sequence[str], known: Sequence[str], here: str, there: str) -> None:
    if not ours or not known:
        return  # nothing to compare
    for number, (name, expected) in enumerate(zip_longest(ours, known)):
        if name != expected:
            raise BadInput(
                f"class {number} of {here} is {name!r} and that of {there} {expected!r}; give data whose classes are "
                f"numbered alike",
                agreed=True,
            )
