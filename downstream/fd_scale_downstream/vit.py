"""A plain ViT with a simple feature pyramid as a backbone for MMSegmentation and MMDetection.

Two pyramids. `vitdet` (arXiv 2203.16527, section 3) makes maps of strides 4, 8, 16 and 32 from the last map, by
max-pooling or transposed convolutions, each then through 1x1 and 3x3 convolutions with LayerNorms. `beit`
(microsoft/unilm, semantic_segmentation/backbone/beit.py) makes them from the maps behind four blocks, not normed, by
two transposed convolutions, one, none, and max-pooling; their channels stay the model's width.
Left out: window attention with a few global blocks. Attention is global in every block, so large images are expensive.
"""

import math
from collections.abc import Sequence
from typing import Literal

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.errors import BadInput
from fd_scale.fields import Count, Pixels, Seed, within_ranges
from fd_scale_downstream.backbone import FDBackbone, build
from fd_scale_downstream.norm import FDSyncBN
from fd_scale_downstream.weights import export_origin

PATCH_SIZE = 16


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pyramid_level(stride: int, width: int, channels: int) -> nn.Sequential:
    """Make one level of the pyramid.

    (B, width, h, w) of stride 16 -> (B, channels, ...) of stride 4, 8, 16 or 32.
    """
    resample: list[nn.Module]
    if stride == 4:
        resample = [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2), MapNorm(width // 2), nn.GELU()]
        resample.append(nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2))
    elif stride == 8:
        resample = [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]
    else:
        resample = [nn.MaxPool2d(stride // PATCH_SIZE, ceil_mode=True)]
    last = {4: width // 4, 8: width // 2}.get(stride, width)
    return nn.Sequential(
        *resample,
        nn.Conv2d(last, channels, 1, bias=False),
        MapNorm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        MapNorm(channels),
    )


def beit_level(stride: int, width: int) -> nn.Module:
    """Make one level of BEiT's pyramid, under the published names: (B, width, h, w) of stride 16 -> (B, width, ...)."""
    if stride == 4:
        first = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        return nn.Sequential(first, FDSyncBN(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, stride=2))
    if stride == 8:
        return nn.Sequential(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
    return nn.Identity() if stride == PATCH_SIZE else nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)


def checked_taps(taps: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Numbers of the blocks, from 1, whose outputs become the four levels, finest first.

    Raises:
        BadInput: they are not four, ascending, of a model of `depth` blocks.
    """
    if taps is None:
        return depth // 3, depth // 2, 2 * depth // 3, depth
    if len(taps) != 4 or sorted(set(taps)) != list(taps) or not (taps[0] >= 1 and taps[-1] <= depth):
        raise BadInput(f"backbone.taps={list(taps)} must be four ascending numbers of blocks, from 1 to {depth}")
    return tuple(taps)


@MODELS.register_module()
class FDViT(FDBackbone):
    """Plain ViT with a feature pyramid of one of two kinds.

    Images (B, 3, H, W) -> one (B, C, ceil(H/s), ceil(W/s)) for each stride s of 4, 8, 16 and 32.

    name: of `fd_scale.models.zoo`, with patches of 16 px; position_bias, neutral_gaps as there.
    image_size: the one that the positions are for; an export says it itself. For other images they are resized in
        each forward.
    pyramid: `vitdet`, with C = out_channels, or `beit`, with C = the model's width.
    taps: numbers of the blocks, from 1, behind which `beit` takes its maps, finest first: 4, 6, 8, 12 of a ViT-B and
        8, 12, 16, 24 of a ViT-L, as published; by default those at a third, a half, two thirds and the end.
    """

    @within_ranges
    def __init__(
        self,
        name: str,
        *,
        image_size: Pixels | None = None,
        position_bias: str | None = None,
        pyramid: Literal["vitdet", "beit"] = "vitdet",
        out_channels: Count = 256,
        taps: Sequence[int] | None = None,
        drop_path: float = 0.1,
        weights: str | None = None,
        weights_key: str | None = None,
        neutral_gaps: bool = False,
        seed: Seed = 0,
    ):
        super().__init__(weights, seed, neutral_gaps, weights_key)
        if pyramid not in ("vitdet", "beit"):
            raise BadInput(f"backbone.pyramid={pyramid!r} is neither 'vitdet' nor 'beit'")
        origin = export_origin(weights)
        if origin is not None:
            image_size = image_size or origin["image_size"]
        if image_size is None:
            raise BadInput(f"backbone {name} needs image_size, the one its positions are for: that of its pre-training")
        self.model = build({"name": name, "position_bias": position_bias, "drop_path": drop_path}, origin, image_size)
        if self.model.strides[-1] != PATCH_SIZE:
            raise BadInput(f"the pyramid over {name} needs patches of {PATCH_SIZE} px, not {self.model.strides[-1]}")
        self.model.resize_positions = True  # type: ignore[assignment]
        self.trained_grid = self.model.grid(image_size, image_size)
        self.strides = (4, 8, 16, 32)
        self.from_blocks = pyramid == "beit"
        width = self.model.width
        if not self.from_blocks:
            if taps is not None:
                raise BadInput(f"backbone.taps={list(taps)} is for pyramid='beit'; 'vitdet' takes the last map alone")
            self.pyramid = nn.ModuleList(pyramid_level(stride, width, out_channels) for stride in self.strides)
            return
        depth = len(self.model.blocks())
        self.model.map_depths = checked_taps(taps, depth)  # type: ignore[assignment]
        self.model.norm.requires_grad_(False)  # no map passes it
        self.pyramid = nn.ModuleList(beit_level(stride, width) for stride in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        if self.from_blocks:
            maps = self.model.forward_maps(padded, self.keys(images))  # four of (B, C, h, w)
        else:
            tokens = self.model(padded, self.keys(images))[:, self.model.num_prefix_tokens :]  # (B, h*w, C)
            maps = [tokens.transpose(1, 2).unflatten(2, self.model.grid(*padded.shape[-2:]))] * len(self.strides)
        # The finer levels of a padded image are cut to what the image covers.
        return [
            level(one)[:, :, : math.ceil(height / stride), : math.ceil(width / stride)]
            for level, one, stride in zip(self.pyramid, maps, self.strides, strict=True)
        ]

    def resized(self) -> str:
        return f"positions of a {self.trained_grid[0]}x{self.trained_grid[1]} grid are resized to each image's"
