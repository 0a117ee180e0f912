"""Tensors of a published format as the parameters of one of our students: renamed, split, copied, resized.

What carries function in the file must find a place in the model, and what carries function in the model must come from
the file: a student that computes something else than its weights were trained for trains all the same, only worse.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT, table_length
from fd_scale.models.weights.formats import SWIN, UNKNOWN, VIT, bare_names, recognise
from fd_scale.models.weights.places import check_shapes, neutral_value, without_place
from fd_scale.models.weights.report import LoadReport
from fd_scale.models.weights.resizing import resized_offsets, resized_positions
from fd_scale.models.weights.windows import Windows, windows_of_tables

TABLE = "relative_position_bias_table"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"


@dataclass(frozen=True)
class Fitted:
    """`tensors`: by the model's names and in its shapes, in the file's types; all of them if `report.complete`.

    trained_windows: of a SwinV2's position bias, by the file; None where it does not say.
    """

    tensors: dict[str, Tensor]
    report: LoadReport
    trained_windows: Windows | None


@dataclass
class _Parts:
    """On the way: tensors by our names, which tensor of the file each comes from, and what was done to them."""

    tensors: dict[str, Tensor]
    sources: dict[str, str]
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)  # by the file's names, with the reason
    notes: list[str] = field(default_factory=list)

    def take(self, name: str) -> tuple[Tensor, str]:
        return self.tensors.pop(name), self.sources.pop(name)

    def put(self, name: str, tensor: Tensor, source: str) -> None:
        self.tensors[name], self.sources[name] = tensor, source

    def drop(self, name: str, why: str) -> None:
        self.dropped[self.take(name)[1]] = why

    def matching(self, pattern: str) -> list[str]:
        return [name for name in self.tensors if re.fullmatch(pattern, name)]


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], *, neutral: bool = False, trained_windows: Windows | None = None
) -> Fitted:
    """The tensors of a file as those of a SwinV2 or ViT student. Whether they are enough is asked by `require`.

    Args:
        model: may be on the meta device; only its names, shapes and sizes count.
        tensors: by the file's names, from `read_file`.
        neutral: fill what the file lacks and what has a value at which it does nothing with that value: LayerScale 1,
            biases of queries and values 0, tables of position biases 0, the final norm 1 and 0.
        trained_windows: of a SwinV2's position bias, where they are known from elsewhere than the tensors.

    Raises:
        BadInput: the file is of another architecture or size, or holds something that carries function and that the
            model has no place for.
    """
    if not isinstance(model, SwinV2 | ViT):
        raise BadInput(f"weights are fitted to the students SwinV2 and ViT, not to a {type(model).__name__}")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    recognised = recognise(tensors, SWIN if isinstance(model, SwinV2) else VIT)
    parts = _Parts({new: tensors[name] for new, name in recognised.named.items()}, dict(recognised.named))
    _split_biases(parts, cosine=isinstance(model, SwinV2))
    if isinstance(model, SwinV2):
        _copy_shared_coordinates(parts, model)
        bare = {short: tensors[name] for name, short in bare_names(tensors).items()}
        trained_windows = trained_windows or windows_of_tables(bare)
    else:
        _fit_positions(parts, model)
        _fit_tables(parts, model)
    for name in without_place(shapes, parts.tensors):
        parts.drop(name, UNKNOWN)
    check_shapes(shapes, parts.tensors)
    filled = _neutral(shapes, parts) if neutral else {}
    ready = {**filled, **parts.tensors}
    return Fitted(
        tensors={name: ready[name] for name in shapes if name in ready},
        report=_report(model, tensors, recognised.format, recognised.useless, parts, filled),
        trained_windows=trained_windows,
    )


def _neutral(shapes: Mapping[str, tuple[int, ...]], parts: _Parts) -> dict[str, Tensor]:
    absent = [name for name in shapes if name not in parts.tensors]
    return {name: torch.full(shapes[name], v) for name in absent if (v := neutral_value(name)) is not None}


def _report(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    label: str,
    useless: Mapping[str, str],
    parts: _Parts,
    filled: Mapping[str, Tensor],
) -> LoadReport:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    used = set(parts.sources.values())
    ignored = {**useless, **{name: why for name, why in parts.dropped.items() if name not in used}}
    return LoadReport(
        format=label,
        matched=tuple(name for name in sizes if name in parts.tensors and name not in parts.resized),
        resized=parts.resized,
        neutral=tuple(filled),
        missing=tuple(name for name in sizes if name not in parts.tensors and name not in filled),
        ignored={name: ignored[name] for name in tensors if name in ignored},
        notes=tuple(parts.notes),
        share=sum(sizes[name] for name in parts.tensors) / sum(sizes.values()),
    )


def _split_biases(parts: _Parts, *, cosine: bool) -> None:
    """One bias of queries, keys and values, as timm's ViTs have it, into ours; that of the keys is dropped.

    In dot-product attention it adds the same number to all logits of a query, which the softmax cancels. Not so in
    cosine attention, where keys are normalised after it.
    """
    for name in parts.matching(r".*attn\.qkv\.bias"):
        if parts.tensors[name].dim() != 1 or len(parts.tensors[name]) % 3:
            continue  # refused later: no model has a place for it
        block = name.removesuffix("qkv.bias")
        bias, source = parts.take(name)
        query, key, value = bias.chunk(3)
        parts.put(f"{block}q_bias", query, source)
        parts.put(f"{block}k_bias", key, source)
        parts.put(f"{block}v_bias", value, source)
    keys = parts.matching(r".*attn\.k_bias")
    trained = [name for name in keys if parts.tensors[name].any()]
    if trained and cosine:
        raise BadInput(
            f"{parts.sources[trained[0]]} is a bias of the keys that is not 0 ({len(trained)} blocks have one); SwinV2 "
            "has no place for it, and its cosine attention normalises keys after it, so that it cannot be dropped"
        )
    for name in keys:
        parts.drop(name, "bias of the keys, which changes nothing")
    if trained:
        parts.notes.append(f"a bias of the keys was dropped in {len(trained)} blocks, where the softmax cancels it")


def _copy_shared_coordinates(parts: _Parts, model: SwinV2) -> None:
    """The position bias that a stage shares, to every block of a model whose blocks have their own."""
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


def _fit_positions(parts: _Parts, model: ViT) -> None:
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


def _fit_tables(parts: _Parts, model: ViT) -> None:
    """Tables of relative position biases on the model's grid; a shared one copied to blocks that have their own."""
    own = any(name.startswith("blocks.0.") and name.endswith(TABLE) for name, _ in model.named_parameters())
    if own and SHARED_TABLE in parts.tensors:
        table, source = parts.take(SHARED_TABLE)
        for block in range(len(model.blocks())):
            parts.put(f"blocks.{block}.attn.{TABLE}", table, source)
        parts.notes.append("the position bias that all blocks shared was copied to each of them")
    for name in parts.matching(rf".*{TABLE}"):
        table = parts.tensors[name]
        has_place = own or model.rel_pos_bias is not None
        if has_place and table.dim() == 2 and len(table) != table_length(model.built_grid):
            parts.tensors[name] = resized_offsets(table, model.built_grid)
            parts.resized[name] = f"from {len(table)} offsets to {table_length(model.built_grid)}"
