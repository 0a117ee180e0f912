"""Names of tensors in published files: what surrounds a backbone in them, and what is of no use in a student.

The names inside a backbone are known to its family (`fd_scale.models.families`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
class FileNames:
    """Names of the tensors in a file.

    `bare`: each name of a file -> the same without prefixes, as `bare_names` gives it.
    """

    bare: Mapping[str, str]

    def have(self, part: str) -> bool:
        """Whether a name holds `part`, prefixes aside."""
        return any(part in short for short in self.bare.values())

    @property
    def in_encoder(self) -> bool:
        """Whether the backbone is the encoder of something larger, as feature distillation saves it."""
        return any(name != short and "encoder." in name for name, short in self.bare.items())


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Strip each name of a file of what was around the backbone and its parts."""
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
    """Whether the names behind the prefix are a backbone's, with no second backbone beside it."""
    inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return any(name.startswith(INSIDE) for name in inside) and not inside.intersection(names)
