"""Mixup (arXiv 1710.09412), cutmix (arXiv 1905.04899) and random erasing (arXiv 1708.04896) of a batch on the device.

Two neighbouring positions of a global batch are mixed with each other. Positions are handed out in runs, so neighbours
are in one micro-batch whatever the ranks, as long as it is even, and no image is decoded twice. Every draw belongs to a
sample or a pair and is keyed by its position (`fd_scale.keyed`), so it does not depend on ranks, micro-batches or
restarts. timm's `Mixup` draws once for the batch of a process; `per_pair` is what it calls `pair`.

Letters: B images of a micro-batch, H W pixels, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fd_scale.data.config import MixConfig
from fd_scale.keyed import purpose_number, uniform

ERASE, NOISE, ANGLE = (purpose_number(name) for name in ("erase", "erase_noise", "erase_angle"))
MIX = purpose_number("mix") & (2**63 - 1)


@dataclass(frozen=True)
class Pairs:
    """Plan of how each image of a micro-batch is mixed with its neighbour."""

    share: Tensor
    """(B,) of the image itself."""
    box: Tensor
    """(B, 4) top, bottom, left, right of what is the neighbour's; empty for mixup."""


def draw_pairs(config: MixConfig, seed: int, step: int, positions: list[int], size: tuple[int, int]) -> Pairs:
    """Draw on the host, by the position of the first image of each pair, how it is mixed; both images get the same.

    Args:
        positions: of the micro-batch in the global batch, an even number.
        size: H, W
    """
    rows = []
    for position in positions[::2]:
        random = np.random.default_rng((seed, step, position, MIX))
        cut = config.cutmix > 0 and (config.mixup == 0 or random.random() < config.switch)
        alpha = config.cutmix if cut else config.mixup
        share = float(random.beta(alpha, alpha))
        box = _box(random, share, size) if cut else (0, 0, 0, 0)
        if cut:  # what was cut, not what was drawn: the rectangle may stand over the edge
            share = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
        rows += [(share, *box)] * 2
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 5)
    return Pairs(table[:, 0].float(), table[:, 1:].long())


def mix(images: Tensor, pairs: Pairs) -> Tensor:
    """Mix each image (B, 3, H, W) with its neighbour."""
    neighbours = swap(images)
    share = pairs.share.to(images)[:, None, None, None]
    top, bottom, left, right = pairs.box.to(images.device).unbind(dim=1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    in_columns = (columns >= left[:, None]) & (columns < right[:, None])  # (B, W)
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
    is_cut = (bottom > top)[:, None, None, None]
    blended = torch.where(is_cut, images, images * share + neighbours * (1 - share))
    return torch.where(inside, neighbours, blended)


def targets(labels: Tensor, classes: int, smoothing: float, pairs: Pairs | None) -> Tensor:
    """Make targets (B, K) fp32, which sum to 1, of labels (B,) int64.

    They are smoothed as timm does it, and mixed as the images are.
    """
    off = smoothing / classes
    smooth = torch.full((len(labels), classes), off, device=labels.device)
    smooth.scatter_(1, labels[:, None], 1 - smoothing + off)
    if pairs is None:
        return smooth
    share = pairs.share.to(smooth)[:, None]
    return smooth * share + swap(smooth) * (1 - share)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with soft targets. (B, K) twice -> (B,) fp32."""
    return -(target * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def erase(images: Tensor, keys: Tensor, share: float) -> Tensor:
    """Erase a rectangle in a share `share` of normalised images (B, 3, H, W).

    The rectangle has 2 to 33 % of the area and a ratio of 0.3 to 3.3. It is filled with normal noise, one number for
    each pixel and colour (timm's mode `pixel`). One that does not fit is clipped to the image; timm draws another.
    """
    height, width = images.shape[-2:]
    draws = uniform(keys, ERASE, 5)  # (B, 5)
    chosen = (draws[:, 0] < share).nonzero()[:, 0]  # (E,); noise for the others would cost more than asking the device
    draws = draws[chosen]
    area = (0.02 + draws[:, 1] * (1 / 3 - 0.02)) * height * width
    ratio = torch.exp(math.log(0.3) * (1 - 2 * draws[:, 2]))  # log-uniform in 0.3 .. 1 / 0.3
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top = (draws[:, 3] * (height - tall + 1)).floor()
    left = (draws[:, 4] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (E, H)
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (E, W)
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (E, 1, H, W)
    before = images[chosen]
    noise = _normal(keys[chosen], images[0].numel()).view_as(before).to(images.dtype)
    return images.index_copy(0, chosen, torch.where(inside, noise, before))


def swap(values: Tensor) -> Tensor:
    """Exchange the two of each pair in (B, ...)."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _box(random: np.random.Generator, share: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A rectangle of 1 - share of the area around a random centre, clipped to the image."""
    height, width = size
    tall, wide = (int(side * math.sqrt(1 - share)) for side in size)
    row, column = int(random.integers(height)), int(random.integers(width))
    rows = max(row - tall // 2, 0), min(row + tall // 2, height)
    columns = max(column - wide // 2, 0), min(column + wide // 2, width)
    return (*rows, *columns)


def _normal(keys: Tensor, count: int) -> Tensor:
    """(B, count) normal numbers (Box and Muller), keyed."""
    radius = (-2 * (1 - uniform(keys, NOISE, count)).log()).sqrt()
    return radius * (2 * math.pi * uniform(keys, ANGLE, count)).cos()
