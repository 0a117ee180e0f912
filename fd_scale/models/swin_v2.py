"""SwinV2 from a demo size to the 3-billion-parameter giant.

Source: arXiv 2111.09883; shared position bias and initialisation from arXiv 2205.14141 and its released code.
Names of parameters as Microsoft published them; the two things absent there are named as in the released
feature-distillation code: `enorm` (the extra norm) and `rel_pos_bias` (the bias of a stage).
Left out: heads, absolute position embedding, dropout inside attention and MLP.

Letters: B batch, h w map, W windows of a batch, C channels, N tokens of a window.
"""

import logging
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.models import init
from fd_scale.models.activation_bytes import BlockShape, block_bytes
from fd_scale.models.attention import SharedPositionBias, WindowAttention, choose_path, relative_coordinates
from fd_scale.models.attention.layout import Size, WindowLayout, fitted_shift, fitted_window, window_layout
from fd_scale.models.backbone import Backbone, CallBlock, PatchEmbedding
from fd_scale.models.config import AttentionChoice
from fd_scale.models.drop_path import DropPath, draws_of_blocks, drop_path_rates, per_branch

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


class Block(nn.Module):
    """Window attention and MLP, each normalised after (res-post-norm), then perhaps the norm of the main branch."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int,
        shifted: bool,
        drop_path: float,
        pretrained_window: int,
        shared_bias: bool,
        extra_norm: bool,
        attention: AttentionChoice = "auto",
        window_chunk: int = 0,
    ):
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.attn = WindowAttention(
            width,
            heads,
            pretrained_window=pretrained_window,
            shared_bias=shared_bias,
            attention=attention,
            chunk=window_chunk,
        )
        self.norm1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.norm2 = nn.LayerNorm(width)
        self.drop_path = DropPath(drop_path)
        self.enorm = nn.LayerNorm(width) if extra_norm else nn.Identity()

    def forward(self, tokens: Tensor, layout: WindowLayout, bias: Tensor | None, draws: Tensor | None = None) -> Tensor:
        """Run the block on tokens (B, h, w, C). Returns (B, h, w, C).

        Args:
            layout: of the block's (shifted) windows.
            bias: where the stage shares one.
            draws: (B, 2) of drop path.
        """
        attention_draws, mlp_draws = per_branch(draws)
        attended = layout.join(self.attn(layout.cut(tokens), layout, bias))
        tokens = self.drop_path(tokens, self.norm1(attended), attention_draws)
        tokens = self.drop_path(tokens, self.norm2(self.mlp(tokens)), mlp_draws)
        return self.enorm(tokens)

    def activation_bytes(self, batch: int, size: Size, channels: int, element_size: int) -> int:
        attn = self.attn
        shape = BlockShape(
            batch,
            size,
            channels,
            attn.heads,
            self.window,
            self.shifted,
            bias_per_block=attn.cpb_mlp is not None,
            extra_norm=isinstance(self.enorm, nn.LayerNorm),
            chunk=attn.chunk,
        )
        return block_bytes(shape, attn.attention, self.norm1.weight.device.type, element_size)


class PatchMerging(nn.Module):
    """Merging of 2 x 2 tokens: (B, h, w, C) -> (B, ceil(h/2), ceil(w/2), 2C).

    Odd maps are padded with zeros, as in timm.
    """

    def __init__(self, width: int):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = functional.pad(tokens, (0, 0, 0, tokens.shape[2] % 2, 0, tokens.shape[1] % 2))
        tokens = tokens.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h/2, 2, w/2, 2, C)
        tokens = tokens.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, h/2, w/2, 4C), the rows of a patch innermost
        return self.norm(self.reduction(tokens))


class Stage(nn.Module):
    """Blocks of one resolution and the merging after them."""

    def __init__(self, blocks: list[Block], rel_pos_bias: SharedPositionBias | None, downsample: PatchMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.rel_pos_bias = rel_pos_bias
        self.downsample = downsample

    def typed_blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    # Not `forward`: a stage owns no parameter itself, and sharding hooks inspect what a forward is given.
    def run(self, tokens: Tensor, draws: Iterator[Tensor | None], call_block: CallBlock) -> Tensor:
        """Run the blocks on (B, h, w, C), before the merging. Takes the draws of its own blocks."""
        first = self.typed_blocks()[0]
        size = (tokens.shape[1], tokens.shape[2])
        window, shift = fitted_window(size, first.window), fitted_shift(size, first.window)
        still, shifted = (window_layout(len(tokens), size, window, step, tokens.device) for step in ((0, 0), shift))
        bias = None
        if self.rel_pos_bias is not None:
            coordinates = relative_coordinates(window, first.attn.pretrained_window, tokens.device)
            bias = first.attn.form(self.rel_pos_bias(coordinates, window))
        for block in self.typed_blocks():
            tokens = call_block(block, tokens, shifted if block.shifted else still, bias, next(draws))
        return tokens


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
