"""Tensors that a file and a model lack of each other, and what to change so that they agree."""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.models.weights.report import LoadReport, shown

ENOUGH = 0.95
"""Share of a model's numbers that a file must hold. Less is another model, and training would start from noise."""

CARRIES_FUNCTION = re.compile(
    r"(blocks|layers)\.\d+\..*|patch_embed\..*|(cls|reg|dist|register|storage)_tokens?"
    r"|(pos_embed|absolute_pos_embed|pos_embed_win)|rel_pos_bias\..*|rope(_embed)?\..*|norm\..*"
)
EXTRA_NORM = r"layers\.\d+\.blocks\.(\d+)\.enorm\..*"
NEUTRAL = (
    (r"blocks\.\d+\.gamma_[12]", 1.0),
    (r".*\.attn\.[qv]_bias", 0.0),
    (r"(blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table", 0.0),
    (r"norm\.weight", 1.0),
    (r"norm\.bias", 0.0),
)
"""(pattern of a parameter, the value at which it does nothing)."""


def neutral_value(name: str) -> float | None:
    return next((value for pattern, value in NEUTRAL if re.fullmatch(pattern, name)), None)


def without_parameter(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> list[str]:
    """List the tensors, by our names, that the model has no parameter for and that nobody knows.

    Raises BadInput for one that carries function: dropping it would change what the weights compute.
    """
    homeless = [name for name in tensors if name not in shapes]
    carrying = [name for name in homeless if CARRIES_FUNCTION.fullmatch(name)]
    if carrying:
        raise BadInput(f"the student has no place for {shown(carrying)}: {_advice(carrying, shapes, tensors)}")
    return homeless


def _advice(names: list[str], shapes: Mapping[str, tuple[int, ...]], held: Iterable[str]) -> str:
    """What to change for the first that says it."""
    depths, deeper = _depths(shapes), _depths(held)
    if set(depths) <= set(deeper) and depths != deeper:
        return (
            f"the file has {_blocks(deeper)} and the student {_blocks(depths)}; choose the student's name of its size"
        )
    for pattern, advice in ADVICE:
        found = [match for name in names if (match := re.fullmatch(pattern, name))]
        if found:
            return advice(found) if callable(advice) else advice
    return "its architecture is another one"


def _interval(found: list[re.Match]) -> str:
    """The smallest number of a block with a norm of its own says after how many there is one; 0: nowhere."""
    return f"set the student's extra_norm_every: {min((int(match[1]) + 1 for match in found), default=0)}"


ADVICE: tuple[tuple[str, str | Callable[[list[re.Match]], str]], ...] = (
    (EXTRA_NORM, _interval),
    (r"(layers\.\d+\.)?blocks\.\d+\.attn\.(cpb_mlp\..*|relative_position_bias_table)", "every block has a bias of its "
     "own, which a shared one cannot hold; set the student's position_bias: per_block"),
    (r"rel_pos_bias\..*", "set the student's position_bias: shared, or per_block to copy it to every block"),
    (r"pos_embed", "set the student's position_bias: absolute"),
    (r"rope(_embed)?\..*", "no student has rotary positions; take these weights as the teacher"),
    (r"(reg|dist|register|storage)_tokens?", "our ViT has the class token alone; take weights without further tokens, "
     "or take these as the teacher"),
)  # fmt: skip


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Where blocks stand -> how many there are."""
    depths: dict[str, int] = {}
    for name in names:
        match = re.match(r"((?:layers\.\d+\.)?blocks)\.(\d+)\.", name)
        if match:
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _blocks(depths: Mapping[str, int]) -> str:
    return f"{'+'.join(str(depths[where]) for where in sorted(depths))} blocks"


def check_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another shape than the model's.

    Raises:
        BadInput: one has another shape.
    """
    wrong = [name for name in shapes if name in tensors and tuple(tensors[name].shape) != shapes[name]]
    if not wrong:
        return
    first = wrong[0]
    found, wanted = tuple(tensors[first].shape), shapes[first]
    if first == "patch_embed.proj.weight" and len(found) == len(wanted) and found[0] == wanted[0]:
        if found[1] != wanted[1]:
            raise BadInput(f"they are for images of {found[1]} channels, and the student for {wanted[1]}")
        raise BadInput(
            f"their patches are {found[2]}x{found[3]} px and the student's {wanted[2]}x{wanted[3]}, which cannot be "
            f"resized; set the student's patch_size: {found[2]}"
        )
    raise BadInput(
        f"{len(wrong)} tensors have another shape, first {first}: {found} in the file, {wanted} in the student; give "
        "the student the file's name, patch_size and position_bias"
    )


def check_gaps(model: nn.Module, report: LoadReport, *, whole: bool) -> None:
    """Refuse a file that fills too little of the model, or lacks something that carries function.

    Unless it must be `whole`, the final norm may be missing: its initial values are the neutral ones.

    Raises:
        BadInput: too little comes from the file, or such a part is missing.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    if sum(sizes[name] for name in report.missing) > (1 - ENOUGH) * sum(sizes.values()):
        raise BadInput(
            f"they hold {report.share:.1%} of this model, at least {ENOUGH:.0%} are needed; missing: "
            f"{shown(report.missing)}; the file's unknown names: {shown(report.unknown)}"
        )
    gaps = [name for name in report.missing if whole or not name.startswith("norm.")]
    if not gaps:
        return
    norms = [name for name in gaps if ".enorm." in name]
    if norms:
        held = [match for name in report.matched if (match := re.fullmatch(EXTRA_NORM, name))]
        raise BadInput(f"the file has no {shown(norms)}; {_interval(held)}")
    if "cls_token" in gaps:
        raise BadInput("the file has no cls_token: every ViT student has a class token, which would change the others")
    if all(neutral_value(name) is not None for name in gaps):
        raise BadInput(
            f"the file has no {shown(gaps)}; set the student's neutral_gaps: true (converting: --neutral-gaps) to fill "
            "them with the values at which they do nothing (LayerScale 1, biases 0), as in the file's own model"
        )
    raise BadInput(f"the file has no {shown(gaps)}: it is torn, or of another architecture")
