"""Learning rates that fall with the distance from the head (`fd_scale.models.depth`), for both backbones."""

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
    what the backbone's `no_weight_decay()` names. `layer_decay=1` leaves only that distinction.
    """

    def _validate_cfg(self) -> None:
        options = self.paramwise_cfg
        if set(options) != {"layer_decay"} or not 0 < options["layer_decay"] <= 1:
            raise BadInput(f"FDLayerDecay takes paramwise_cfg=dict(layer_decay=...) in (0, 1], not {options}")

    def add_params(self, params: list[dict], module: nn.Module, **_: object) -> None:
        backbone = getattr(module, "backbone", None)
        if not isinstance(backbone, FDBackbone):
            raise BadInput(f"FDLayerDecay is for the backbones FDSwinV2 and FDViT, not {type(backbone).__name__}")
        prefix = "backbone.model."
        depth_of = {prefix + name: depth for name, depth in depths(backbone.model).items()}
        exempt = {prefix + name for name in backbone.model.no_weight_decay()}
        last = len(backbone.model.blocks()) + 1

        groups: dict[tuple[int, bool], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            decayed = len(full_shape(parameter)) > 1 and not name.endswith(".bias") and name not in exempt
            depth = depth_of.get(name, last)
            scale = self.paramwise_cfg["layer_decay"] ** (last - depth)
            group = {
                "params": [],
                "lr": self.base_lr * scale,
                "lr_scale": scale,
                "weight_decay": (self.base_wd or 0.0) if decayed else 0.0,
            }
            groups.setdefault((depth, decayed), group)["params"].append(parameter)
        ordered = sorted(groups.items())
        for (depth, _decayed), group in ordered:
            size = sum(full_shape(parameter).numel() for parameter in group["params"])
            rates = f"lr {group['lr']:.3g}, weight decay {group['weight_decay']:.3g}"
            print_log(f"depth {depth} of {last}: {rates}, {size} numbers", logger="current")
        params.extend(group for _, group in ordered)
