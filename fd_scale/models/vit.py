"""The plain vision transformer of feature distillation: BEiT-style relative positions, LayerScale, class token.

Source: arXiv 2205.14141 and its released code; names of parameters as in BEiT.
Left out: heads, a feature pyramid (all maps have one stride), fused attention.

Letters: B batch, h w map, L = 1 + h*w tokens with the class token first, C channels.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

from fd_scale.errors import BadInput
from fd_scale.models import init
from fd_scale.models.attention import attend, join_heads, relative_index, split_heads, widened
from fd_scale.models.backbone import Backbone, PatchEmbedding, unset
from fd_scale.models.drop_path import DropPath, draws_of_blocks, drop_path_rates, per_branch

PositionBias = Literal["absolute", "per_block", "shared"]
Grid = tuple[int, int]

NUM_MAPS = 4
NORM_EPS = 1e-6


@dataclass(frozen=True)
class ViTSize:
    """Shape behind a name. `mlp_width`: hidden channels, None for four times the width."""

    width: int
    depth: int
    heads: int
    patch_size: int = 16
    mlp_width: int | None = None


SIZES = {
    "vit_nano": ViTSize(96, 6, 3),  # ours, for tiny images: configs/miniature
    "vit_tiny": ViTSize(192, 12, 3),
    "vit_small": ViTSize(384, 12, 6),
    "vit_base": ViTSize(768, 12, 12),
    "vit_large": ViTSize(1024, 24, 16),
    "vit_huge": ViTSize(1280, 32, 16, patch_size=14),
    "vit_giant": ViTSize(1408, 40, 16, patch_size=14, mlp_width=6144),  # g of arXiv 2106.04560; not DINOv2's (1536)
}


def table_length(grid: Grid) -> int:
    """Count the rows of a table of position biases: every offset of two patches, and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def resized_map(values: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resize values on a grid, bicubic as in timm; untouched on their own grid.

    (old h * old w, C) -> (new h * new w, C).
    """
    if old == new:
        return values
    maps = widened(values).T.unflatten(1, old)[None]  # (1, C, old h, old w)
    return functional.interpolate(maps, new, mode="bicubic")[0].flatten(1).T.to(values.dtype)


def resized_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resize a table of position biases: the offsets are stretched, the class rows are kept.

    (table_length(old), heads) -> (table_length(new), heads).
    """
    old_offsets, new_offsets = [(2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old, new)]
    return torch.cat((resized_map(table[:-3], old_offsets, new_offsets), table[-3:]))


def table_bias(table: Tensor, grid: Grid) -> Tensor:
    """Look up the biases of all pairs: (table_length, heads) -> (heads, L, L).

    The last three rows: class to patch, patch to class, class to class.
    """
    index = functional.pad(relative_index(grid, table.device), (1, 0, 1, 0))  # (L, L)
    length = table_length(grid)
    index[0, :] = length - 3
    index[:, 0] = length - 2
    index[0, 0] = length - 1
    return functional.embedding(index, table).permute(2, 0, 1)


class RelativePositionBias(nn.Module):
    """Table of position biases for all blocks."""

    def __init__(self, grid: Grid, heads: int):
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = unset(table_length(grid), heads)

    def forward(self, grid: Grid) -> Tensor:
        return table_bias(resized_table(self.relative_position_bias_table, self.grid, grid), grid)


class Attention(nn.Module):
    """Softmax attention over all tokens.

    `grid`: this block has a table of its own; None: none, or the shared one, which is handed in.
    """

    def __init__(self, width: int, heads: int, grid: Grid | None):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.grid = grid
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = unset(width)  # a bias of the keys would cancel in the softmax
        self.v_bias = unset(width)
        self.relative_position_bias_table = unset(table_length(grid), heads) if grid else None
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
        """Attend among tokens (B, 1 + h*w, C) of a grid (h, w), with bias (heads, L, L) if it is shared.

        Returns (B, L, C).
        """
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        query = split_heads(query + self.q_bias, self.heads) * self.scale  # (B, heads, L, d)
        key = split_heads(key, self.heads)
        value = split_heads(value + self.v_bias, self.heads)
        if self.relative_position_bias_table is not None and self.grid is not None:
            bias = table_bias(resized_table(self.relative_position_bias_table, self.grid, grid), grid)
        return self.proj(join_heads(attend(query, key, value, bias)))


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by a learned factor per channel (LayerScale)."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, drop_path: float, grid: Grid | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads, grid)
        self.gamma_1 = unset(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, mlp_width)
        self.gamma_2 = unset(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, bias: Tensor | None, draws: Tensor | None, grid: Grid) -> Tensor:
        """Run the block on tokens (B, L, C) of a grid. Returns (B, L, C).

        Args:
            bias: (heads, L, L) if it is shared.
            draws: (B, 2) of drop path.
        """
        attention_draws, mlp_draws = per_branch(draws)
        tokens = self.drop_path(tokens, self.gamma_1 * self.attn(self.norm1(tokens), bias, grid), attention_draws)
        return self.drop_path(tokens, self.gamma_2 * self.mlp(self.norm2(tokens)), mlp_draws)


class BlockList(nn.ModuleList):
    """List of blocks that is also the call `blocks()`.

    BEiT's names need a child called `blocks`, and the interface needs the call.
    """

    def __call__(self) -> list[nn.Module]:
        return list(self)


class ViT(Backbone):
    """Plain vision transformer.

    position_bias: `shared` (one table for all blocks), `per_block`, or `absolute` (an embedding, no table).
    layer_scale: initial value of the factors per channel.
    resize_positions: set it to take images of other sizes too, the positions resized in each forward; else refused.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        image_size: int,
        patch_size: int = 16,
        mlp_width: int | None = None,
        drop_path: float = 0.1,
        position_bias: PositionBias = "shared",
        layer_scale: float = 0.1,
    ):
        super().__init__()
        self.width = width
        self.patch_size = patch_size
        self.strides = (patch_size,) * NUM_MAPS
        self.layer_scale = layer_scale
        self.resize_positions = False
        self.built_grid = self.grid(image_size, image_size)
        tokens = 1 + self.built_grid[0] * self.built_grid[1]
        self.patch_embed = PatchEmbedding(patch_size, width, norm=False)
        self.cls_token = unset(1, 1, width)
        self.pos_embed = unset(1, tokens, width) if position_bias == "absolute" else None
        self.rel_pos_bias = RelativePositionBias(self.built_grid, heads) if position_bias == "shared" else None
        block_grid = self.built_grid if position_bias == "per_block" else None
        self.blocks = BlockList(
            Block(width, heads, mlp_width or 4 * width, drop_path=rate, grid=block_grid)
            for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.map_depths = tuple(math.ceil(depth * (number + 1) / NUM_MAPS) for number in range(NUM_MAPS))

    def forward(  # type: ignore[override]
        self, images: Tensor, keys: Tensor | None = None, maps: bool = False
    ) -> Tensor | list[Tensor]:
        grid = self._checked_grid(images)
        tokens = self._embed(images, grid)  # (B, L, C)
        bias = self.rel_pos_bias(grid) if self.rel_pos_bias is not None else None
        outputs = []
        blocks = self.blocks()
        for block, draws in zip(blocks, draws_of_blocks(keys, len(blocks)), strict=True):
            tokens = self.call_block(block, tokens, bias, draws, grid)
            outputs.append(tokens)
        if not maps:
            return self.norm(tokens)
        return [outputs[d - 1][:, 1:].transpose(1, 2).unflatten(2, grid) for d in self.map_depths]

    def forward_maps(self, images: Tensor, keys: Tensor | None = None) -> list[Tensor]:
        # Through the module's own call, whose hooks gather the class token under ZeRO-3.
        return self(images, keys, maps=True)

    def _checked_grid(self, images: Tensor) -> Grid:
        height, width = images.shape[-2:]
        grid = self.grid(height, width)
        whole = height % self.patch_size == 0 and width % self.patch_size == 0
        if not whole or (grid != self.built_grid and not self.resize_positions):
            built = tuple(self.patch_size * side for side in self.built_grid)
            raise BadInput(
                f"images of {height}x{width} px give a grid of {grid[0]}x{grid[1]} patches, but this ViT was built for "
                f"{self.built_grid[0]}x{self.built_grid[1]}: feed {built[0]}x{built[1]} px or build it for that size"
            )
        return grid

    def _embed(self, images: Tensor, grid: Grid) -> Tensor:
        """(B, 3, H, W) -> (B, L, C), positions added if they are absolute."""
        tokens = self.patch_embed(images).flatten(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens), dim=1)
        if self.pos_embed is None:
            return tokens
        positions = resized_map(self.pos_embed[0, 1:], self.built_grid, grid)
        return tokens + torch.cat((self.pos_embed[:, :1], positions[None]), dim=1)

    def grid(self, height: int, width: int) -> Grid:
        return height // self.patch_size, width // self.patch_size

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter: normal with std 0.02 cut at one sigma.

        What enters the main branch is divided by sqrt(2 * block).
        """
        residual = re.fullmatch(r"blocks\.(\d+)\.(attn\.proj|mlp\.fc2)\.weight", name)
        if name.endswith(("gamma_1", "gamma_2")):
            init.constant(parameter, self.layer_scale)
        elif name.endswith(("bias", "relative_position_bias_table")):
            init.constant(parameter, 0.0)
        elif re.search(r"norm[12]?\.weight$", name):
            init.constant(parameter, 1.0)
        elif residual:
            std = 0.02 / math.sqrt(2 * (int(residual[1]) + 1))
            init.truncated_normal(parameter, std, generator, cut=1)
        elif re.search(r"(cls_token|pos_embed|qkv\.weight|fc1\.weight|patch_embed\.proj\.weight)$", name):
            init.truncated_normal(parameter, 0.02, generator, cut=1)
        else:
            raise LookupError(f"ViT has no initialisation rule for {name}")

    def depth_of(self, name: str) -> int | None:
        """Depth of the shared position bias, which comes after all blocks, as published."""
        return len(self.blocks()) + 1 if name.startswith("rel_pos_bias.") else None

    def no_weight_decay(self) -> set[str]:
        """Names without weight decay. Tables of position biases are not among them: published recipes decay them."""
        return {"cls_token"} if self.pos_embed is None else {"cls_token", "pos_embed"}
