"""Learning rates that fall with the distance from the head (`fd_scale.models.depth`), for both backbones."""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.depth import depths
from fd_scale.parallel.engine import full_shape
from fd_scale_downstream.backbone import FDBackbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FDLayerDecay(DefaultOptimWrapperConstructor):
    """Optimizer constructor that gives layers far from the head lower learning rates.

    `optim_wrapper = dict(constructor="FDLayerDecay", paramwise_cfg=dict(layer_decay=0.9), optimizer=...)`.

    One group for each depth, with and without weight decay. Exempt from it are biases, one-dimensional parameters and
    what the backbone's `no_weight_decay()` names. `layer_decay=1` leaves only that distinction. `backbone_factor`, 1 by
    default, multiplies all rates of the backbone's own model: 0.1 is SwinV2's on COCO (arXiv 2111.09883, A2.1).
    """

    def _validate_cfg(self) -> None:
        options = {"backbone_factor": 1.0, **self.paramwise_cfg}
        if set(options) != {"layer_decay", "backbone_factor"} or not all(map(_is_factor, options.values())):
            raise BadInput(
                f"FDLayerDecay takes paramwise_cfg=dict(layer_decay=..., backbone_factor=...), both in (0, 1], not "
                f"{dict(self.paramwise_cfg)}"
            )

    def add_params(self, params: list[dict], module: nn.Module, **_: object) -> None:
        backbone = getattr(module, "backbone", None)
        if not isinstance(backbone, FDBackbone):
            raise BadInput(f"FDLayerDecay is for the backbones FDSwinV2 and FDViT, not {type(backbone).__name__}")
        prefix = "backbone.model."
        depth_of = {prefix + name: depth for name, depth in depths(backbone.model).items()}
        exempt = {prefix + name for name in backbone.model.no_weight_decay()}
        last = len(backbone.model.blocks()) + 1

        groups: dict[tuple[int, float, bool], dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            decayed = len(full_shape(parameter)) > 1 and not name.endswith(".bias") and name not in exempt
            depth = depth_of.get(name, last)
            scale = self.paramwise_cfg["layer_decay"] ** (last - depth)
            if name in depth_of:
                scale *= self.paramwise_cfg.get("backbone_factor", 1.0)
            group: dict[str, Any] = {
                "params": [],
                "lr": self.base_lr * scale,
                "lr_scale": scale,
                "weight_decay": (self.base_wd or 0.0) if decayed else 0.0,
            }
            # The norm behind the last block and what is not the backbone's have one depth, and perhaps two rates.
            groups.setdefault((depth, scale, decayed), group)["params"].append(parameter)
        ordered = sorted(groups.items())
        for key, group in ordered:
            size = sum(full_shape(parameter).numel() for parameter in group["params"])
            rates = f"lr {group['lr']:.3g}, weight decay {group['weight_decay']:.3g}"
            print_log(f"depth {key[0]} of {last}: {rates}, {size} numbers", logger="current")
        params.extend(group for _, group in ordered)


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
