"""Distance of a parameter from the images, for learning rates that fall with the distance from the head.

Source: the rule of BEiT (arXiv 2106.08254), as in the released code of feature distillation: with N blocks, what comes
before them has depth 0, block k depth k, everything after them N + 1, and a rate of `decay ** (N + 1 - depth)`.
"""

from fd_scale.models.backbone import Backbone


def depths(model: Backbone) -> dict[str, int]:
    """Compute the depth of every parameter.

    The depth of a parameter outside of blocks follows from the order in which a model lists its parts, which is that of
    its forward pass: 0 before the first block, between two blocks that of the one before it (the merging of a Swin),
    N + 1 after the last. Shared position biases are exceptions, which a model names itself (`Backbone.depth_of`).
    """
    number_of_block = {id(block): number for number, block in enumerate(model.blocks(), start=1)}
    blocks = {name: number_of_block[id(m)] for name, m in model.named_modules() if id(m) in number_of_block}
    owner = {
        name: next((number for block, number in blocks.items() if name.startswith(f"{block}.")), None)
        for name, _ in model.named_parameters()
    }
    found: dict[str, int] = {}
    reached = 0
    for name, number in owner.items():
        named = model.depth_of(name)
        if number is not None:
            reached = found[name] = number
        elif named is not None:
            found[name] = named
        else:
            found[name] = reached if reached < len(blocks) else len(blocks) + 1
    return found
