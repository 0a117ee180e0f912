"""COCO-format instances with their classes found by name, as `CocoDataset` and `CocoMetric` of MMDetection do not.

Those number the categories that have one of the names in the order of the annotation file. A file that lists them in
another order, or lacks one, moves the numbers of all that follow, and is trained or scored as other classes. Here
number k is the class of the k-th name whatever the file lists; a class that the file lacks stays without instances.
"""

from collections.abc import Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.registry import DATASETS, METRICS

from fd_scale.errors import BadInput


class ByName(COCO):
    """MMDetection's reader of annotation files, with category ids in the order of the names that are asked for."""

    def get_cat_ids(self, cat_names: Sequence[str] = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        """List the id of each name's category; a name that the file lacks gets a negative one, which no annotation has.

        Raises:
            BadInput: the file has a name twice, or none of them.
        """
        ids: dict[str, int] = {}
        for category in self.dataset["categories"]:
            if ids.setdefault(category["name"], category["id"]) != category["id"]:
                raise BadInput(f"an annotation file has two categories named {category['name']!r}; name each once")
        if not ids.keys() & set(cat_names):
            raise BadInput(
                f"an annotation file has the categories {', '.join(list(ids)[:3])}, ... and none of the "
                f"{len(cat_names)} classes ({', '.join(list(cat_names)[:3])}, ...); set metainfo.classes of the data"
            )
        for position, name in enumerate(cat_names):
            if name not in ids:
                ids[name] = -1 - position
                self.cats[ids[name]] = {"id": ids[name], "name": name}  # the metric looks its name up
        return [ids[name] for name in cat_names]


@DATASETS.register_module()
class CocoByName(CocoDataset):
    COCOAPI = ByName


@METRICS.register_module()
class CocoMetricByName(CocoMetric):
    def __init__(self, **options: Any):
        super().__init__(**options)
        if self._coco_api is not None:
            self._coco_api.__class__ = ByName
