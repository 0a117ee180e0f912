"""fd_scale's backbones in MMSegmentation and MMDetection: `custom_imports = dict(imports=["fd_scale_downstream"])`.

The only Python of the project that imports mmengine, mmcv, mmdet or mmseg. Importing it registers, in mmengine's root
registries and so for all of them, the backbones `FDSwinV2` and `FDViT`, the optimizer constructor `FDLayerDecay`,
`ClassNamesHook`, and for training in shards `FDRunner` with `FDStrategy`. Data sets have modules of their own:
`semantic` for MMSegmentation (index maps), `coco` for MMDetection (categories by name).

backbone, swin_v2, vit           the backbones; weights: into them, with a report for the log
layer_decay                      learning rates by depth
class_names                      classes of data sets and checkpoints, compared by name
strategy, runner, engine_model   training in shards; optim_wrapper, precision: parts of it
interruption                     stops and resumed starts
alone                            the lease of a work folder under MMEngine's own runner
export, records, shown           to an mmengine checkpoint; plain values; configs without secrets
__main__                         a train, test, export and launch command
"""

from fd_scale_downstream.class_names import ClassNamesHook
from fd_scale_downstream.layer_decay import FDLayerDecay
from fd_scale_downstream.runner import FDRunner
from fd_scale_downstream.strategy import FDStrategy
from fd_scale_downstream.swin_v2 import FDSwinV2
from fd_scale_downstream.vit import FDViT

__all__ = ["ClassNamesHook", "FDLayerDecay", "FDRunner", "FDStrategy", "FDSwinV2", "FDViT"]
