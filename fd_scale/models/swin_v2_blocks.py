"""The parts of a SwinV2: its blocks, the merging of tokens between stages, and a stage of blocks.

Source: arXiv 2111.09883; the extra norm and the position bias of a stage from arXiv 2205.14141 and its released code.

Letters: B batch, h w map, C channels.
"""

from collections.abc import Iterator

from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.models.activation_bytes import BlockShape, block_bytes
from fd_scale.models.attention import SharedPositionBias, WindowAttention, relative_coordinates
from fd_scale.models.attention.layout import Size, WindowLayout, fitted_shift, fitted_window, window_layout
from fd_scale.models.backbone import CallBlock
from fd_scale.models.config import AttentionChoice
from fd_scale.models.drop_path import DropPath, per_branch


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
