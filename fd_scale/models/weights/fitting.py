"""Tensors of a published format as the parameters of one of our students: renamed, split, copied, resized.

What carries function in the file must find a place in the model, and what carries function in the model must come from
the file: a student that computes something else than its weights were trained for trains all the same, only worse.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.models.families import published_weights
from fd_scale.models.weights.formats import UNKNOWN, bare_names
from fd_scale.models.weights.gaps import check_shapes, neutral_value, without_parameter
from fd_scale.models.weights.parts import Fitted, Parts, Windows
from fd_scale.models.weights.published import PublishedWeights
from fd_scale.models.weights.recognition import recognise
from fd_scale.models.weights.report import LoadReport


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], *, neutral: bool = False, trained_windows: Windows | None = None
) -> Fitted:
    """Fit the tensors of a file to one of our students.

    Whether they are enough is asked by `gaps.check_gaps`.

    Args:
        model: may be on the meta device; only its names, shapes and sizes count.
        tensors: by the file's names, from `read_file`.
        neutral: fill what the file lacks and what has a value at which it does nothing with that value: LayerScale 1,
            biases of queries and values 0, tables of position biases 0, the final norm 1 and 0.
        trained_windows: of the position bias, where they are known from elsewhere than the tensors.

    Raises:
        BadInput: the file is of another architecture or size, or holds something that carries function and that the
            model has no place for.
    """
    weights = published_weights(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    recognised = recognise(tensors, weights)
    parts = Parts({new: tensors[name] for new, name in recognised.named.items()}, dict(recognised.named))
    _split_biases(parts, weights)
    weights.arrange(parts, model)
    if trained_windows is None and weights.windows is not None:
        bare = {short: tensors[name] for name, short in bare_names(tensors).items()}
        trained_windows = weights.windows.of_tensors(bare)
    for name in without_parameter(shapes, parts.tensors):
        parts.drop(name, UNKNOWN)
    check_shapes(shapes, parts.tensors)
    filled = _neutral(shapes, parts) if neutral else {}
    ready = {**filled, **parts.tensors}
    return Fitted(
        tensors={name: ready[name] for name in shapes if name in ready},
        report=_report(model, tensors, recognised.format, recognised.useless, parts, filled),
        trained_windows=trained_windows,
    )


def _neutral(shapes: Mapping[str, tuple[int, ...]], parts: Parts) -> dict[str, Tensor]:
    absent = [name for name in shapes if name not in parts.tensors]
    return {name: torch.full(shapes[name], v) for name in absent if (v := neutral_value(name)) is not None}


def _report(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    label: str,
    useless: Mapping[str, str],
    parts: Parts,
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


def _split_biases(parts: Parts, weights: PublishedWeights) -> None:
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
    if trained and weights.cosine_attention:
        raise BadInput(
            f"{parts.sources[trained[0]]} is a bias of the keys that is not 0 ({len(trained)} blocks have one); "
            f"{weights.architecture} has no place for it, and its cosine attention normalises keys after it, so that "
            "it cannot be dropped"
        )
    for name in keys:
        parts.drop(name, "bias of the keys, which changes nothing")
    if trained:
        parts.notes.append(f"a bias of the keys was dropped in {len(trained)} blocks, where the softmax cancels it")
