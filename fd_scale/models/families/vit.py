"""The plain ViT as a family: its configuration, and published weights of it.

Names of tensors are those of microsoft/unilm (BEiT), SwinTransformer/Feature-Distillation, facebookresearch/dino, deit,
mae and dinov2, and timm.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.vision_transformer import Block as ViTBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.families.family import Family, patch_size_of
from fd_scale.models.vit import NORM_EPS, SIZES, ViT, table_length
from fd_scale.models.weights.formats import FileNames
from fd_scale.models.weights.parts import Parts
from fd_scale.models.weights.published import PublishedWeights, TimmTwin, patches
from fd_scale.models.weights.reading import WeightsFile
from fd_scale.models.weights.resizing import CLASS_ROWS, resized_offsets, resized_positions, square_grid

TABLE = "relative_position_bias_table"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"


def build(config: StudentConfig, image_size: int) -> Backbone:
    """Build a student; see `Family.build`."""
    size = SIZES[config.name]
    return ViT(
        size.width,
        size.depth,
        size.heads,
        image_size=image_size,
        patch_size=patch_size_of(config, size.patch_size, image_size),
        mlp_width=size.mlp_width,
        drop_path=config.drop_path,
        position_bias=config.position_bias or "shared",
    )


class ViTWeights(PublishedWeights):
    architecture = "ViT"
    mark = r"^blocks\.\d+\.attn\.qkv\.weight$"
    twins = (
        TimmTwin("BEiT", Beit, BeitBlock, NORM_EPS),
        TimmTwin("plain ViT", VisionTransformer, ViTBlock, NORM_EPS),
    )

    def format(self, names: FileNames) -> str:
        if names.have("gamma_1"):
            if names.in_encoder:
                return "feature distillation's ViT"
            return "BEiT" if names.have(TABLE) else "ViT with BEiT's names"
        if names.have("decoder_blocks."):
            return "MAE"
        if names.have("head.last_layer") or any(".backbone." in f".{name}" for name in names.bare):
            return "DINO"
        if names.have("ls1.gamma"):
            return "ViT with LayerScale (timm, DINOv2)"
        return "ViT with timm's names (DeiT, DINO, MAE, timm)"

    def renaming(self, names: Iterable[str]) -> Callable[[str], str]:
        return lambda name: re.sub(r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2", name)

    def arrange(self, parts: Parts, model: ViT) -> None:
        _fit_positions(parts, model)
        _fit_tables(parts, model)

    def student(
        self, file: WeightsFile, tensors: Mapping[str, Tensor], bare: Mapping[str, Tensor]
    ) -> tuple[StudentConfig, int | None]:
        width, patch_size = patches(tensors)
        depth = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name)))
        name = {(size.width, size.depth): name for name, size in SIZES.items()}.get((width, depth))
        if name is None:
            raise BadInput(f"no student is a ViT of {width} channels and {depth} blocks")
        shared = tensors.get(SHARED_TABLE)
        table_of_block = tensors.get(f"blocks.0.attn.{TABLE}")
        table, positions = shared if shared is not None else table_of_block, tensors.get("pos_embed")
        side = None
        if table is not None and table.dim() == 2:
            side = (square_grid(len(table) - CLASS_ROWS, "its table of position biases")[0] + 1) // 2
        elif positions is not None and positions.dim() == 3:
            side = math.isqrt(positions.shape[1])  # with or without a row for the class token
        config = StudentConfig(
            name,
            patch_size=patch_size,
            position_bias="shared" if shared is not None else "per_block" if table_of_block is not None else "absolute",
        )
        return config, file.image_size or (side * patch_size if side else None)


def _fit_positions(parts: Parts, model: ViT) -> None:
    """The position embedding, with a row for the class token, on the model's grid."""
    if "pos_embed" not in parts.tensors:
        return
    positions, source = parts.tensors["pos_embed"], parts.sources["pos_embed"]
    if model.pos_embed is None and not positions.any():
        parts.drop("pos_embed", "a position embedding of zeros")
        return
    if model.pos_embed is None or positions.dim() != 3:
        return  # refused later, by name or by shape
    count = positions.shape[1]
    if _is_square(count) and not _is_square(count - 1):  # timm's `no_embed_class`: nothing is added to the class token
        positions = torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
        parts.notes.append("the position embedding had no row for the class token, which got one of zeros")
    height, width = model.built_grid
    if positions.shape[1] != 1 + height * width:
        resized = resized_positions(positions, 1, model.built_grid)
        parts.resized["pos_embed"] = f"from {positions.shape[1] - 1} positions to {height}x{width}"
        positions = resized
    parts.put("pos_embed", positions, source)


def _is_square(count: int) -> bool:
    return math.isqrt(max(count, 0)) ** 2 == count


def _fit_tables(parts: Parts, model: ViT) -> None:
    """Tables of relative position biases on the model's grid; a shared one copied to blocks that have their own."""
    per_block = any(name.startswith("blocks.0.") and name.endswith(TABLE) for name, _ in model.named_parameters())
    if per_block and SHARED_TABLE in parts.tensors:
        table, source = parts.take(SHARED_TABLE)
        for block in range(len(model.blocks())):
            parts.put(f"blocks.{block}.attn.{TABLE}", table, source)
        parts.notes.append("the position bias that all blocks shared was copied to each of them")
    for name in parts.matching(rf".*{TABLE}"):
        table = parts.tensors[name]
        takes_table = per_block or model.rel_pos_bias is not None
        if takes_table and table.dim() == 2 and len(table) != table_length(model.built_grid):
            parts.tensors[name] = resized_offsets(table, model.built_grid)
            parts.resized[name] = f"from {len(table)} offsets to {table_length(model.built_grid)}"


VIT = Family(
    title=ViTWeights.architecture,
    model=ViT,
    build=build,
    weights=ViTWeights(),
    keys=frozenset({"patch_size", "position_bias"}),
    final_norm="fresh",
    sizes=SIZES,
    position_biases=("shared", "per_block", "absolute"),
)
