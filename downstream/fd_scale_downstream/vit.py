"""A plain ViT with a simple feature pyramid as a backbone for MMSegmentation and MMDetection.

Source: arXiv 2203.16527, section 3: maps of strides 32, 16, 8 and 4 from the last map alone, by max-pooling or
transposed convolutions, each then through 1x1 and 3x3 convolutions with LayerNorms.
Left out: window attention with a few global blocks. Attention is global in every block, so large images are expensive.
"""

import math

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.errors import BadInput
from fd_scale.fields import Count, Pixels, Seed, within_ranges
from fd_scale_downstream.backbone import FDBackbone, build
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


@MODELS.register_module()
class FDViT(FDBackbone):
    """Plain ViT with a simple feature pyramid.

    Images (B, 3, H, W) -> one (B, out_channels, ceil(H/s), ceil(W/s)) for each stride s of 4, 8, 16 and 32.

    name: of `fd_scale.models.zoo`, with patches of 16 px; position_bias, neutral_gaps as there.
    image_size: the one that the positions are for; an export says it itself. For other images they are resized in
        each forward.
    """

    @within_ranges
    def __init__(
        self,
        name: str,
        *,
        image_size: Pixels | None = None,
        position_bias: str | None = None,
        out_channels: Count = 256,
        drop_path: float = 0.1,
        weights: str | None = None,
        weights_key: str | None = None,
        neutral_gaps: bool = False,
        seed: Seed = 0,
    ):
        super().__init__(weights, seed, neutral_gaps, weights_key)
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
        self.pyramid = nn.ModuleList(pyramid_level(stride, self.model.width, out_channels) for stride in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        tokens = self.model(padded, self.keys(images))[:, self.model.num_prefix_tokens :]  # (B, h*w, C)
        grid = self.model.grid(*padded.shape[-2:])
        last = tokens.transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
        # The finer levels of a padded image are cut to what the image covers.
        return [
            level(last)[:, :, : math.ceil(height / stride), : math.ceil(width / stride)]
            for level, stride in zip(self.pyramid, self.strides, strict=True)
        ]

    def resized(self) -> str:
        return f"positions of a {self.trained_grid[0]}x{self.trained_grid[1]} grid are resized to each image's"
