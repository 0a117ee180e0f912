"""SwinV2 from a demo size to the 3-billion-parameter giant.

Source: arXiv 2111.09883; shared position bias and initialisation from arXiv 2205.14141 and its released code.
Names of parameters as Microsoft published them; the two things absent there are named as in the released
feature-distillation code: `enorm` (the extra norm) and `rel_pos_bias` (the bias of a stage).
Left out: heads, absolute position embedding, dropout inside attention and MLP.

Letters: B batch, h w map, C channels.
"""

import logging
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fd_scale.models import init
from fd_scale.models.attention import SharedPositionBias, choose_path
from fd_scale.models.attention.layout import fitted_window
from fd_scale.models.backbone import Backbone, PatchEmbedding
from fd_scale.models.config import AttentionChoice
from fd_scale.models.drop_path import draws_of_blocks, drop_path_rates
from fd_scale.models.swin_v2_blocks import Block, PatchMerging, Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwinV2Size:
    """Shape behind a name. The window is one of published pre-training, the extra norm the paper's for H and G."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    patch_size: int = 4
    extra_norm_every: int = 0


SIZES = {
    # Ours, for two CPU cores. Stride 16 from patches of 2: at 96 px the maps are 48, 24, 12 and 6, all whole windows.
    "swin_v2_nano": SwinV2Size(24, (1, 1, 2, 2), (1, 2, 4, 8), window=6, patch_size=2),
    "swin_v2_tiny": SwinV2Size(96, (2, 2, 6, 2), (3, 6, 12, 24), window=8),
    "swin_v2_small": SwinV2Size(96, (2, 2, 18, 2), (3, 6, 12, 24), window=8),
    "swin_v2_base": SwinV2Size(128, (2, 2, 18, 2), (4, 8, 16, 32), window=8),
    "swin_v2_large": SwinV2Size(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12),
    "swin_v2_huge": SwinV2Size(352, (2, 2, 18, 2), (11, 22, 44, 88), window=12, extra_norm_every=6),
    "swin_v2_giant": SwinV2Size(512, (2, 2, 42, 4), (16, 32, 64, 128), window=12, extra_norm_every=6),
}


class SwinV2(Backbone):
    """SwinV2 backbone.

    position_bias: `per_block` (published weights) or `shared` (one per stage).
    pretrained_windows: one for each stage when the weights come from another window, else None.
    extra_norm_every: a LayerNorm on the main branch after every n-th block of a stage; 0 for none.
    residual_norm_init: initial weight of the norms in blocks; 0 in Microsoft's code, 1e-5 in feature distillation's.
    attention, window_chunk: how windows attend, see `attention.paths`; the same numbers but for the order of sums.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        embed_dim: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        *,
        window: int,
        patch_size: int = 4,
        drop_path: float = 0.1,
        position_bias: Literal["per_block", "shared"] = "per_block",
        pretrained_windows: tuple[int, ...] | None = None,
        extra_norm_every: int = 0,
        residual_norm_init: float = 1e-5,
        attention: AttentionChoice = "auto",
        window_chunk: int = 0,
    ):
        super().__init__()
        self.depths = depths
        self.residual_norm_init = residual_norm_init
        self.strides = tuple(patch_size * 2**stage for stage in range(len(depths)))
        self.width = embed_dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbedding(patch_size, embed_dim, norm=True)
        shared = position_bias == "shared"
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            width = embed_dim * 2**stage
            blocks = [
                Block(
                    width,
                    heads[stage],
                    window=window,
                    shifted=number % 2 == 1,
                    drop_path=next(rates),
                    pretrained_window=pretrained_windows[stage] if pretrained_windows else 0,
                    shared_bias=shared,
                    extra_norm=extra_norm_every > 0 and (number + 1) % extra_norm_every == 0,
                    attention=attention,
                    window_chunk=window_chunk,
                )
                for number in range(depth)
            ]
            last = stage == len(depths) - 1
            bias = SharedPositionBias(heads[stage]) if shared else None
            self.layers.append(Stage(blocks, bias, None if last else PatchMerging(width)))
        self.norm = nn.LayerNorm(self.width)
        self._told = False

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        (tokens,) = deque(self._stages(images, keys), maxlen=1)  # the last; the others need not outlive their stage
        return self.norm(tokens.flatten(1, 2))

    def forward_maps(self, images: Tensor, keys: Tensor | None = None) -> list[Tensor]:
        return [tokens.permute(0, 3, 1, 2) for tokens in self._stages(images, keys)]

    def _stages(self, images: Tensor, keys: Tensor | None) -> Iterator[Tensor]:
        """The tokens (B, h, w, C) at the end of each stage."""
        draws = iter(draws_of_blocks(keys, sum(self.depths)))
        tokens = self.patch_embed(images)
        if not torch.compiler.is_compiling() and not self._told:
            self._tell_paths(tokens)
        for stage in self._layers():
            tokens = stage.run(tokens, draws, self.call_block)
            yield tokens
            if stage.downsample is not None:
                tokens = stage.downsample(tokens)

    def _tell_paths(self, tokens: Tensor) -> None:
        """Log how each stage attends, once. tokens (B, h, w, C) of the first."""
        self._told = True
        stages = []
        for number, stage in enumerate(self._layers()):
            first = stage.typed_blocks()[0]
            size = (-(-tokens.shape[1] // 2**number), -(-tokens.shape[2] // 2**number))
            height, width = fitted_window(size, first.window)
            path = choose_path(first.attn.attention, tokens.device.type, height * width)
            stages.append(f"{height}x{width} {path}")
        logger.info("attention on %s, windows and path of each stage: %s", tokens.device.type, ", ".join(stages))

    def _layers(self) -> list[Stage]:
        return list(self.layers)  # type: ignore[arg-type]

    def blocks_of_stages(self) -> list[list[Block]]:
        return [stage.typed_blocks() for stage in self._layers()]

    @property
    def told_windows(self) -> tuple[int, ...] | None:  # type: ignore[override]
        windows = tuple(blocks[0].attn.pretrained_window for blocks in self.blocks_of_stages())
        return windows if any(windows) else None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        # Rounding up at the patches and at each merging is the same as rounding up once.
        return math.ceil(height / self.strides[-1]), math.ceil(width / self.strides[-1])

    def blocks(self) -> list[nn.Module]:
        return [block for blocks in self.blocks_of_stages() for block in blocks]

    def activation_bytes(self, shape: tuple[int, ...], element_size: int) -> list[int]:
        """Bytes that each block keeps, see `Backbone`; shape (B, h, w, C) of the first stage."""
        batch, height, width, channels = shape
        estimates = []
        for number, blocks in enumerate(self.blocks_of_stages()):
            size = (-(-height // 2**number), -(-width // 2**number))
            estimates += [block.activation_bytes(batch, size, channels * 2**number, element_size) for block in blocks]
        return estimates

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter by feature distillation's rule.

        Normal with std 0.02; what enters the main branch is divided by sqrt(2 * block).

        Published as a normal cut at 100 sigma, whose usual sampler turns a draw of exactly 0 into -2: hence no cut.
        """
        residual = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(attn\.proj|mlp\.fc2)\.weight", name)
        if name.endswith("logit_scale"):
            init.constant(parameter, math.log(10))
        elif name.endswith("bias"):
            init.constant(parameter, 0.0)
        elif name.endswith(("norm1.weight", "norm2.weight")):
            init.constant(parameter, self.residual_norm_init)
        elif name.endswith("norm.weight"):
            init.constant(parameter, 1.0)
        elif residual:
            number = sum(self.depths[: int(residual[1])]) + int(residual[2]) + 1
            init.normal(parameter, 0.02 / math.sqrt(2 * number), generator)
        elif re.search(r"(cpb_mlp\.[02]|qkv|fc1|reduction|patch_embed\.proj)\.weight$", name):
            init.normal(parameter, 0.02, generator)
        else:
            raise LookupError(f"SwinV2 has no initialisation rule for {name}")

    def depth_of(self, name: str) -> int | None:
        """Depth of the position bias that a stage shares: that of its first block."""
        shared = re.match(r"layers\.(\d+)\.rel_pos_bias\.", name)
        return sum(self.depths[: int(shared[1])]) + 1 if shared else None

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if "cpb_mlp" in name or "logit_scale" in name}
