"""Recognition of a file's family, and of the names that its models have for the tensors.

A name goes through two steps: prefixes of wrappers around the backbone are taken off, then the few names that differ
are changed. A name that is then still unknown to the student is either known to be of no use here, or reported.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.families import published_families
from fd_scale.models.weights.formats import UNKNOWN, WITHOUT_USE, FileNames, bare_names
from fd_scale.models.weights.published import PublishedWeights


@dataclass(frozen=True)
class Recognised:
    """Names of a file in ours.

    named: our name -> the file's.
    useless: the file's name -> why it is ignored.
    """

    format: str
    named: dict[str, str]
    useless: dict[str, str]


def recognise(tensors: Mapping[str, Tensor], weights: PublishedWeights) -> Recognised:
    """Recognise the family of a file. Raises BadInput for the tensors of another architecture."""
    bare = bare_names(tensors)
    found, family = architecture(bare.values()), weights.architecture
    if found != family:
        raise BadInput(OTHER[found].format(family=family) if found in OTHER else _mismatch(found, family))
    rename = weights.renaming(list(bare.values()))
    named: dict[str, str] = {}
    useless: dict[str, str] = {}
    for name, short in bare.items():
        reason = next((why for pattern, why in WITHOUT_USE if re.fullmatch(pattern, short)), None)
        if reason is not None:
            useless[name] = reason
        elif (new := rename(short)) in named:
            raise BadInput(f"{named[new]} and {name} are both {new}; save the state dict of one model alone")
        else:
            named[new] = name
    return Recognised(weights.format(FileNames(bare)), named, useless)


def architecture(names: Iterable[str]) -> str:
    """Name the architecture by names without prefixes: that of a family, a key of OTHER, or UNKNOWN."""
    names = list(names)
    ours = [(weights.architecture, weights.mark) for _, weights in published_families()]
    marks = [*FOREIGN_NAMES, *ours, FIRST_SWIN]
    return next((kind for kind, mark in marks if any(re.search(mark, name) for name in names)), UNKNOWN)


FOREIGN_NAMES = (
    ("CLIP", r"^(visual\.|transformer\.resblocks\.|vision_model\.|text_model\.)|^(norm_pre|ln_pre)\."),
    ("transformers", r"^((vit|swinv2|swin|beit|dinov2)\.)?(encoder\.layers?\.\d+\.|embeddings\.)"),
    ("SwinV2-CR", r"^(stages|layers)\.\d+\.blocks\.\d+\.attn\.meta_mlp\."),
)
"""(key of OTHER, a name that only such files have). They may have names of our families as well."""
FIRST_SWIN = ("SwinV1", r"^layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table$")
"""What is left of names like SwinV2's."""

OTHER = {
    "CLIP": "they are CLIP's, whose blocks follow a norm and use QuickGELU: no student computes that; take it as the "
    "teacher, e.g. teacher.spec=timm:vit_base_patch16_clip_quickgelu_224.openai@PATH",
    "SwinV1": "they are of the first Swin (EsViT, SimMIM, Swin), whose tables of position biases and dot-product "
    "attention have no place in a {family}; take it as the teacher, e.g. "
    "teacher.spec=timm:swin_base_patch4_window7_224@PATH",
    "SwinV2-CR": "they are of timm's swinv2_cr, which computes its position bias otherwise than the published SwinV2; "
    "take Microsoft's weights or timm's swinv2_*",
    "transformers": "they have the names of Hugging Face transformers, which are not read; take the original file or "
    "timm's of the same model",
}


def _mismatch(found: str, family: str) -> str:
    if found == UNKNOWN:
        return f"their names are those of no known {family}"
    return f"they are of a {found}, and the student is a {family}: choose a student of that family"
