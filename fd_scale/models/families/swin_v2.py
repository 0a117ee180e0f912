"""SwinV2 as a family: its configuration, and published weights of it.

Names of tensors are those of microsoft/Swin-Transformer (SwinV2, SimMIM), SwinTransformer/Feature-Distillation and
timm.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.attention import CHOICES
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.families.family import KEYS_OF_SOME, Family, check_window, patch_size_of
from fd_scale.models.swin_v2 import SIZES, SwinV2
from fd_scale.models.weights.formats import FileNames
from fd_scale.models.weights.parts import Parts
from fd_scale.models.weights.published import PublishedWeights, TimmTwin, WindowRules, patches
from fd_scale.models.weights.reading import WeightsFile
from fd_scale.models.weights.windows import (
    check_windows,
    image_size_of_mask,
    tell_windows,
    trained_windows,
    window_in_tables,
    windows_of_tables,
)

logger = logging.getLogger(__name__)

NORM_EPS = 1e-5


def build(config: StudentConfig, image_size: int) -> Backbone:
    """Build a student; see `Family.build`."""
    size = SIZES[config.name]
    patch_size = patch_size_of(config, size.patch_size, image_size)
    check_window(config)
    window = size.window if config.window is None else config.window
    extra_norm_every = size.extra_norm_every if config.extra_norm_every is None else config.extra_norm_every
    if extra_norm_every < 0:
        raise BadInput(f"student extra_norm_every {extra_norm_every} is negative; 0 means no extra norm")
    if config.pretrained_window is not None and min(config.pretrained_window) < 1:
        raise BadInput(f"student pretrained_window {config.pretrained_window} has a value below 1; give one per stage")
    if config.attention is not None and config.attention not in CHOICES:
        raise BadInput(f"student attention {config.attention!r} is not one of {', '.join(CHOICES)}")
    if config.window_chunk is not None and config.window_chunk < 1:
        raise BadInput(f"student window_chunk {config.window_chunk} is below 1; leave it out to attend all at once")
    if config.window_chunk is not None and config.attention == "flex":
        raise BadInput("student window_chunk is of no use with attention 'flex', which keeps no matrix: remove it")
    if config.position_bias == "absolute":
        raise BadInput(f"student position_bias 'absolute' is for a ViT; {config.name} takes 'per_block' or 'shared'")
    maps = [-(-image_size // (patch_size * 2**stage)) for stage in range(len(size.depths))]
    logger.info("%s at %d px: maps %s, windows %s", config.name, image_size, maps, [min(side, window) for side in maps])
    return SwinV2(
        size.embed_dim,
        size.depths,
        size.heads,
        window=window,
        patch_size=patch_size,
        drop_path=config.drop_path,
        position_bias=config.position_bias or "per_block",
        pretrained_windows=config.pretrained_window,
        extra_norm_every=extra_norm_every,
        residual_norm_init=1e-5 if config.residual_norm_init is None else config.residual_norm_init,
        attention=config.attention or "auto",
        window_chunk=config.window_chunk or 0,
    )


class SwinV2Weights(PublishedWeights):
    architecture = "SwinV2"
    mark = r"^layers\.\d+\.blocks\.\d+\.attn\.logit_scale$"
    cosine_attention = True
    twins = (TimmTwin("SwinV2", SwinTransformerV2, SwinTransformerV2Block, NORM_EPS),)
    windows = WindowRules(trained_windows, windows_of_tables, check_windows, tell_windows)

    def format(self, names: FileNames) -> str:
        if names.have("mask_token"):
            return "SimMIM SwinV2"
        if names.in_encoder:
            return "feature distillation's SwinV2"
        if names.have("rpe_mlp"):
            return "SwinV2 fine-tuned from SimMIM or feature distillation"
        if _is_timm(names.bare.values()):
            return "timm's SwinV2"
        return "Microsoft's SwinV2" if names.have("relative_coords_table") else "SwinV2 with Microsoft's names"

    def renaming(self, names: Iterable[str]) -> Callable[[str], str]:
        moved = _is_timm(names)

        def rename(name: str) -> str:
            name = name.replace(".rpe_mlp.", ".cpb_mlp.")
            match = re.fullmatch(r"layers\.(\d+)\.(downsample\..*)", name)
            return f"layers.{int(match[1]) - 1}.{match[2]}" if match and moved else name

        return rename

    def arrange(self, parts: Parts, model: SwinV2) -> None:
        """Copy the position bias that a stage shares to every block of a model whose blocks have their own."""
        if any(name.endswith("rel_pos_bias.cpb_mlp.0.weight") for name, _ in model.named_parameters()):
            return
        stages = "|".join(map(str, range(len(model.depths))))
        shared = parts.matching(rf"layers\.({stages})\.rel_pos_bias\.cpb_mlp\..*")
        for name in shared:
            stage, _, layer = name.partition(".rel_pos_bias.")
            tensor, source = parts.take(name)
            for block in range(model.depths[int(stage.removeprefix("layers."))]):
                parts.put(f"{stage}.blocks.{block}.attn.{layer}", tensor, source)
        if shared:
            parts.notes.append("the position bias that a stage shared was copied to each of its blocks")

    def student(
        self, file: WeightsFile, tensors: Mapping[str, Tensor], bare: Mapping[str, Tensor]
    ) -> tuple[StudentConfig, int | None]:
        width, patch_size = patches(tensors)
        blocks = [match for name in tensors if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name))]
        last: dict[int, int] = {}
        for match in blocks:
            last[int(match[1])] = max(last.get(int(match[1]), 0), int(match[2]))
        depths = tuple(last[stage] + 1 for stage in sorted(last))
        scales = [tensors.get(f"layers.{stage}.blocks.0.attn.logit_scale") for stage in sorted(last)]
        heads = tuple(scale.numel() if scale is not None else 0 for scale in scales)
        sizes = {(size.embed_dim, size.depths, size.heads): name for name, size in SIZES.items()}
        name = sizes.get((width, depths, heads))
        if name is None:
            raise BadInput(f"no student is a SwinV2 of {width} channels, depths {depths} and heads {heads}")
        norms = [int(m[1]) for n in tensors if (m := re.fullmatch(r"layers\.\d+\.blocks\.(\d+)\.enorm\.weight", n))]
        window = file.window or window_in_tables(bare)
        trained = file.trained_windows or windows_of_tables(bare)
        config = StudentConfig(
            name,
            patch_size=patch_size,
            position_bias="shared" if any(".rel_pos_bias." in n for n in tensors) else "per_block",
            window=window,
            pretrained_window=trained,  # type: ignore[arg-type]
            extra_norm_every=min(norms) + 1 if norms else 0,
        )
        return config, file.image_size or image_size_of_mask(bare, window, patch_size)

    def facts_of_twin(self, model: Any) -> dict[str, Any]:
        attentions = [stage.blocks[0].attn for stage in model.layers]
        trained = tuple(int(a.pretrained_window_size[0] or a.window_size[0]) for a in attentions)
        return {"trained_windows": trained, "window": int(attentions[0].window_size[0])}


def _is_timm(names: Iterable[str]) -> bool:
    """timm has the merging at the start of a stage, Microsoft at the end of the one before."""
    merging = {match[1] for name in names if (match := re.match(r"layers\.(\d+)\.downsample\.", name))}
    return bool(merging) and "0" not in merging


SWIN_V2 = Family(
    title=SwinV2Weights.architecture,
    model=SwinV2,
    build=build,
    weights=SwinV2Weights(),
    keys=frozenset(KEYS_OF_SOME),
    final_norm="kept",
    sizes=SIZES,
    position_biases=("per_block", "shared"),
    native_size=192,
    pixels="imagenet",
    countable={"attention": "sdpa"},
)
