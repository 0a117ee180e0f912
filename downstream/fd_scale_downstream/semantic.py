"""Index PNGs as a data set of MMSegmentation: `classes.json`, and one map for each image of a split.

semantic/classes.json     {"0": "background", "1": "person", ...}; 255 in a map is ignored
semantic/train/NAME.png   and `data_prefix` of the images, in which NAME.jpg may lie among those of other splits
"""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from fd_scale.errors import BadInput
from fd_scale.files import parse_json, read_small

IGNORED = 255


@DATASETS.register_module()
class IndexMaps(BaseSegDataset):
    """MMSegmentation's data set over index maps.

    BaseSegDataset lists the images and wants a map of each; here the maps say which images belong to the split.
    """

    def __init__(self, classes: str, **options: Any):
        """classes: the file of names by index; an index of 255 in it is not a class."""
        try:
            names = {int(index): name for index, name in parse_json(read_small(classes)).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise BadInput(f"{classes} does not give the classes' names by index: {error}") from error
        names.pop(IGNORED, None)
        if sorted(names) != list(range(len(names))):
            raise BadInput(f"{classes} leaves out an index below {max(names, default=0)}: name every class")
        if len(set(names.values())) < len(names):
            raise BadInput(f"{classes} gives two indices one name; name each class once")
        options.setdefault("img_suffix", ".jpg")
        super().__init__(metainfo={"classes": [names[index] for index in range(len(names))]}, **options)

    def load_data_list(self) -> list[dict]:
        kept = [image for image in super().load_data_list() if Path(image["seg_map_path"]).is_file()]
        if not kept:
            raise BadInput(
                f"no image of {self.data_prefix['img_path']} has a map in {self.data_prefix['seg_map_path']}"
            )
        return kept
