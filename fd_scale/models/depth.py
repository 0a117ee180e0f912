"""How far a parameter is from the images, for learning rates that fall with the distance from the head.

Source: the rule of BEiT (arXiv 2106.08254), as in the released code of feature distillation: with N blocks, what comes
before them has depth 0, block k depth k, everything after them N + 1, and a rate of `decay ** (N + 1 - depth)`.
"""

import re

from fd_scale.models.backbone import Backbone

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
