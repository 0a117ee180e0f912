"""A plain copy of a model that is being trained in shards, to evaluate with.

Why a copy: under ZeRO-3 every module of a forward pass is a collective, and evaluation does not run the same modules on
every rank (a detector without proposals skips its heads; the last batch is shorter), so it would hang. The copy is in
fp32, is what an export holds, and takes the memory of the whole model while it lives.
"""

import torch
import torch.distributed as dist
from torch import nn

from fd_scale.parallel.checkpoint.reader import WEIGHT
from fd_scale.parallel.checkpoint.state import TrainingState
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.ranks import Ranks


@torch.no_grad()
def fill(copy: nn.Module, state: TrainingState, ema: ShardedEma | None, ranks: Ranks) -> None:
    """Give an unsharded module on `ranks.device` the weights in training, or their average, and buffers. Collective.

    One parameter at a time is on its way.
    """
    pieces = {piece.name: (piece, value) for key, piece, value in state.fragments() if key == WEIGHT}
    pieces |= ema.average if ema else {}
    for name, parameter in copy.named_parameters():
        whole = torch.zeros(parameter.numel(), device=ranks.device)
        if name in pieces:
            piece, value = pieces[name]
            whole[piece.start : piece.start + piece.elements] = value.to(ranks.device)
        dist.all_reduce(whole)  # the pieces do not overlap, so adding zeros changes no bit of them
        parameter.copy_(whole.view(parameter.shape))
    buffers = state.buffers()
    for name, buffer in copy.state_dict().items():
        if name in buffers:
            buffer.copy_(buffers[name])
            dist.broadcast(buffer, src=0)
