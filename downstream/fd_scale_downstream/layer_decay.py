"""Learning rates that fall with the distance from the head, for both backbones.

Source: the rule of BEiT (arXiv 2106.08254), as in the released code of feature distillation: with N blocks, what comes
before them has depth 0, block k depth k, everything after them N + 1, and a rate of `decay ** (N + 1 - depth)`.
"""

import re

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.models.backbone import Backbone
from fd_scale.parallel.engine import full_shape
from fd_scale_downstream.backbone import FDBackbone

STAGE = re.compile(r"layers\.(\d+)\.(downsample|rel_pos_bias)\.")


def depths(model: Backbone) -> dict[str, int]:
    """The depth of every parameter.

    SwinV2's merging belongs to the block before it; a position bias that a stage shares, to the stage's first block.
    """
    number_of_block = {id(block): number for number, block in enumerate(model.blocks(), start=1)}
    blocks = {name: number_of_block[id(m)] for name, m in model.named_modules() if id(m) in number_of_block}
    return {name: _depth(name, blocks) for name, _ in model.named_parameters()}


def _depth(name: str, blocks: dict[str, int]) -> int:
    for block, number in blocks.items():
        if name.startswith(f"{block}."):
            return number
    stage = STAGE.match(name)
    if stage:
        numbers = [number for block, number in blocks.items() if block.startswith(f"layers.{stage[1]}.")]
        return max(numbers) if stage[2] == "downsample" else min(numbers)
    return 0 if name.startswith(("patch_embed.", "cls_token", "pos_embed")) else len(blocks) + 1


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FDLayerDecay(DefaultOptimWrapperConstructor):
    """`optim_wrapper = dict(constructor="FDLayerDecay", paramwise_cfg=dict(layer_decay=0.9), optimizer=...)`.

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
