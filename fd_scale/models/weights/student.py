"""Which of our students a file of a published format is, by its tensors' names and shapes."""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models import swin_v2, vit
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.formats import SWIN, UNKNOWN, VIT, architecture, bare_names, recognise
from fd_scale.models.weights.reading import WeightsFile
from fd_scale.models.weights.resizing import CLASS_ROWS, square_grid
from fd_scale.models.weights.windows import windows_of_tables


def student_of(file: WeightsFile) -> tuple[StudentConfig, int | None]:
    """The student, and the size of the images it was trained with, where the file tells it.

    Raises:
        BadInput: no student is of that architecture or size.
    """
    bare = bare_names(file.tensors)
    found = architecture(bare.values())
    if found == UNKNOWN:
        raise BadInput("their names are those of no SwinV2 or ViT that is known here")
    recognised = recognise(file.tensors, VIT if found == VIT else SWIN)
    tensors = {new: file.tensors[name] for new, name in recognised.named.items()}
    if found == SWIN:
        return _swin(file, tensors, {short: file.tensors[name] for name, short in bare.items()})
    return _vit(file, tensors)


def _swin(
    file: WeightsFile, tensors: Mapping[str, Tensor], bare: Mapping[str, Tensor]
) -> tuple[StudentConfig, int | None]:
    width, patch_size = _patches(tensors)
    blocks = [match for name in tensors if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name))]
    last: dict[int, int] = {}
    for match in blocks:
        last[int(match[1])] = max(last.get(int(match[1]), 0), int(match[2]))
    depths = tuple(last[stage] + 1 for stage in sorted(last))
    scales = [tensors.get(f"layers.{stage}.blocks.0.attn.logit_scale") for stage in sorted(last)]
    heads = tuple(scale.numel() if scale is not None else 0 for scale in scales)
    sizes = {(size.embed_dim, size.depths, size.heads): name for name, size in swin_v2.SIZES.items()}
    name = sizes.get((width, depths, heads))
    if name is None:
        raise BadInput(f"no student is a SwinV2 of {width} channels, depths {depths} and heads {heads}")
    norms = [int(m[1]) for n in tensors if (m := re.fullmatch(r"layers\.\d+\.blocks\.(\d+)\.enorm\.weight", n))]
    window = file.window or _window(bare)
    trained = file.trained_windows or windows_of_tables(bare)
    config = StudentConfig(
        name,
        patch_size=patch_size,
        position_bias="shared" if any(".rel_pos_bias." in n for n in tensors) else "per_block",
        window=window,
        pretrained_window=trained,  # type: ignore[arg-type]
        extra_norm_every=min(norms) + 1 if norms else 0,
    )
    return config, file.image_size or _image_size(bare, window, patch_size)


def _vit(file: WeightsFile, tensors: Mapping[str, Tensor]) -> tuple[StudentConfig, int | None]:
    width, patch_size = _patches(tensors)
    depth = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name)))
    name = {(size.width, size.depth): name for name, size in vit.SIZES.items()}.get((width, depth))
    if name is None:
        raise BadInput(f"no student is a ViT of {width} channels and {depth} blocks")
    shared = tensors.get("rel_pos_bias.relative_position_bias_table")
    own = tensors.get("blocks.0.attn.relative_position_bias_table")
    table, positions = shared if shared is not None else own, tensors.get("pos_embed")
    side = None
    if table is not None and table.dim() == 2:
        side = (square_grid(len(table) - CLASS_ROWS, "its table of position biases")[0] + 1) // 2
    elif positions is not None and positions.dim() == 3:
        side = math.isqrt(positions.shape[1])  # with or without a row for the class token
    config = StudentConfig(
        name,
        patch_size=patch_size,
        position_bias="shared" if shared is not None else "per_block" if own is not None else "absolute",
    )
    return config, file.image_size or (side * patch_size if side else None)


def _patches(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels, and pixels of a patch's side."""
    weight = tensors.get("patch_embed.proj.weight")
    if weight is None or weight.dim() != 4:
        raise BadInput("the file has no patch_embed.proj.weight, which says the sizes of the student")
    return weight.shape[0], weight.shape[-1]


def _window(bare: Mapping[str, Tensor]) -> int | None:
    """The window in use in the first stage, by its table of coordinates."""
    tables = [table for name, table in bare.items() if re.fullmatch(r"layers\.0\..*relative_coords_table", name)]
    return (tables[0].shape[1] + 1) // 2 if tables else None


def _image_size(bare: Mapping[str, Tensor], window: int | None, patch_size: int) -> int | None:
    """By the mask of the first stage's shifted windows (m, N, N), where there are some."""
    mask = bare.get("layers.0.blocks.1.attn_mask")
    return math.isqrt(len(mask)) * window * patch_size if mask is not None and window else None
