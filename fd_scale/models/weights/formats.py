"""Which published format a file is of, and what our models call its tensors.

A name goes through two steps: prefixes of wrappers around the backbone are taken off, then the few names that differ
are changed. What is then no name of ours is either known to be without use here, or unknown.

Names are those of the published code: microsoft/Swin-Transformer (SwinV2, SimMIM), microsoft/unilm (BEiT) and esvit,
SwinTransformer/Feature-Distillation, facebookresearch/dino, deit, mae and dinov2, openai/CLIP, timm.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fd_scale.errors import BadInput

SWIN, VIT = "SwinV2", "ViT"

WRAPPING_MODULES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Of torch.compile, FSDP, activation checkpointing and DistributedDataParallel: anywhere in a name, because each of
them may be around every block. No model has a child that is called so."""
AROUND = ("encoder", "backbone", "student", "model", "net", "network")
"""Around the backbone only, beside heads and decoders: SimMIM and feature distillation; DINO and the frameworks of
OpenMMLab; our own training; Lightning and training scripts. One may be inside the other.
"""
INSIDE = ("patch_embed.", "blocks.", "layers.")
PREFIX = re.compile(rf"((?:(?:{'|'.join(AROUND)})\.)+)(?:{'|'.join(map(re.escape, INSIDE))})")

UNKNOWN = "unknown"
WITHOUT_USE = (
    (r"(.*\.)?(relative_coords_table|relative_position_index|attn_mask)", "buffers, computed anew"),
    (r"head(_dist|_dense)?\..*", "heads"),
    (r"fc_norm\..*", "norm after the pooling of a classifier"),
    (r"(encoder\.)?mask_token", "token of masked pixels"),
    (r"lm_head\..*", "head of masked image modelling (BEiT)"),
    (r"decoder\..*", "decoder (SimMIM, feature distillation)"),
    (r"decoder_(embed|pos_embed|blocks|norm|pred)(\..*)?", "decoder (MAE)"),
    (r"feature_model\..*", "the teacher that feature distillation saves in every checkpoint"),
)
"""(pattern of a name, why it has no use in a student). Everything else inside a backbone must find a place."""


@dataclass(frozen=True)
class Recognised:
    """`named`: our name -> the file's. `useless`: the file's name -> why it is ignored."""

    format: str
    named: dict[str, str]
    useless: dict[str, str]


def recognise(tensors: Mapping[str, Tensor], family: str) -> Recognised:
    """Raises BadInput for weights of another architecture than `family`, which is SWIN or VIT."""
    bare = bare_names(tensors)
    found = architecture(bare.values())
    if found != family:
        raise BadInput(OTHER[found].format(family=family) if found in OTHER else _mismatch(found, family))
    label = _label(bare)
    rename = _swin_name(bare.values()) if family == SWIN else _vit_name
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
    return Recognised(label, named, useless)


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Each name of a file -> the same without what was around the backbone and its parts."""
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPING_MODULES) for name in names}
    while True:
        whole = next((f"{word}." for word in AROUND if all(s.startswith(f"{word}.") for s in bare.values())), None)
        found = {match[1] for short in bare.values() if (match := PREFIX.match(short))}
        around = next((p for p in sorted(found, key=_preference) if _is_around(p, bare.values())), None)
        prefix = whole or around  # around everything, whatever the model calls its parts
        if prefix is None or not bare:
            return bare
        bare = {name: short.removeprefix(prefix) for name, short in bare.items()}


def _preference(prefix: str) -> list[int]:
    return [AROUND.index(part) for part in prefix.split(".") if part]


def _is_around(prefix: str, names: Iterable[str]) -> bool:
    """Whether a backbone stands behind the prefix, and none beside it that has a name of its own there."""
    inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return any(name.startswith(INSIDE) for name in inside) and not inside.intersection(names)


def architecture(names: Iterable[str]) -> str:
    """SWIN, VIT, a key of OTHER, or UNKNOWN, by names without prefixes."""
    names = list(names)

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    if has(r"^(visual\.|transformer\.resblocks\.|vision_model\.|text_model\.)|^(norm_pre|ln_pre)\."):
        return "CLIP"
    if has(r"^((vit|swinv2|swin|beit|dinov2)\.)?(encoder\.layers?\.\d+\.|embeddings\.)"):
        return "transformers"
    if has(r"^(stages|layers)\.\d+\.blocks\.\d+\.attn\.meta_mlp\."):
        return "SwinV2-CR"
    if has(r"^layers\.\d+\.blocks\.\d+\.attn\.logit_scale$"):
        return SWIN
    if has(r"^layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table$"):
        return "SwinV1"
    if has(r"^blocks\.\d+\.attn\.qkv\.weight$"):
        return VIT
    return UNKNOWN


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


def _label(bare: Mapping[str, str]) -> str:
    """How the report calls the format. Nothing depends on it."""
    names = set(bare.values())

    def has(*parts: str) -> bool:
        return all(any(part in name for name in names) for part in parts)

    wrapped = any(name != short and "encoder." in name for name, short in bare.items())
    labels: list[tuple[str, Callable[[], bool]]] = [
        ("SimMIM SwinV2", lambda: has("logit_scale", "mask_token")),
        ("feature distillation's SwinV2", lambda: wrapped and has("logit_scale")),
        ("SwinV2 fine-tuned from SimMIM or feature distillation", lambda: has("logit_scale", "rpe_mlp")),
        ("timm's SwinV2", lambda: has("logit_scale") and is_timm_swin(names)),
        ("Microsoft's SwinV2", lambda: has("logit_scale", "relative_coords_table")),
        ("SwinV2 with Microsoft's names", lambda: has("logit_scale")),
        ("feature distillation's ViT", lambda: wrapped and has("gamma_1")),
        ("BEiT", lambda: has("gamma_1", "relative_position_bias_table")),
        ("ViT with BEiT's names", lambda: has("gamma_1")),
        ("MAE", lambda: has("decoder_blocks.")),
        ("DINO", lambda: has("head.last_layer") or any(".backbone." in f".{name}" for name in bare)),
        ("ViT with LayerScale (timm, DINOv2)", lambda: has("ls1.gamma")),
    ]
    return next((label for label, applies in labels if applies()), "ViT with timm's names (DeiT, DINO, MAE, timm)")


def is_timm_swin(names: Iterable[str]) -> bool:
    """timm has the merging at the start of a stage, Microsoft at the end of the one before."""
    merging = {match[1] for name in names if (match := re.match(r"layers\.(\d+)\.downsample\.", name))}
    return bool(merging) and "0" not in merging


def _swin_name(names: Iterable[str]) -> Callable[[str], str]:
    moved = is_timm_swin(list(names))

    def rename(name: str) -> str:
        name = name.replace(".rpe_mlp.", ".cpb_mlp.")
        match = re.fullmatch(r"layers\.(\d+)\.(downsample\..*)", name)
        return f"layers.{int(match[1]) - 1}.{match[2]}" if match and moved else name

    return rename


def _vit_name(name: str) -> str:
    return re.sub(r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2", name)
