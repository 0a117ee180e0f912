"""The configuration of a student; `zoo` builds what it names.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fd_scale.fields import Count, Formerly, Limit, MayDiffer, NotNegative, PartialShare, Pixels

AttentionChoice = Literal["auto", "reference", "sdpa", "flex", "tiled"]

TIMM_PREFIX = "timm:"

RAW = "raw"
"""As a key: the weights themselves, also where the file holds an average as well."""


def _first_weights_key(student: dict[str, Any]) -> str | None:
    """Of a run from before there was a choice: averages were taken by timm alone."""
    return None if str(student.get("name")).startswith(TIMM_PREFIX) else RAW


@dataclass(frozen=True)
class StudentConfig:
    """Configuration of a student. None means the default of the named size."""

    name: str
    """Architecture and size: `swin_v2_nano` to `swin_v2_giant`, `vit_nano` to `vit_giant`, or `timm:NAME` for any timm
    model with a map of tokens."""
    patch_size: Pixels | None = None
    """Side of a patch in pixels; null takes that of the named size. Not for a timm model."""
    drop_path: PartialShare = 0.1
    """Stochastic depth of the last block; it grows linearly from 0 at the first block."""
    position_bias: Literal["absolute", "per_block", "shared"] | None = None
    """How positions enter attention. A SwinV2 takes `per_block` (its default) or `shared` (one for each stage), a ViT
    `shared` (its default), `per_block` or `absolute`. Not for a timm model."""
    window: Count | None = None
    """Side of the window of a SwinV2, or of a timm Swin, in tokens; null takes that of the named size. It shrinks where
    the map is smaller."""
    pretrained_window: tuple[Count, Count, Count, Count] | None = None
    """Side of the window of each stage of a SwinV2 when its weights were trained, where that was another one than
    now."""
    extra_norm_every: Limit | None = None
    """Number of blocks of a stage of a SwinV2 after which a norm follows on the main branch; 0 for no such norm, null
    for the default of the named size."""
    residual_norm_init: NotNegative | None = None
    """Initial weight of the norms inside the blocks of a SwinV2; null means 1e-5."""
    attention: Annotated[AttentionChoice | None, MayDiffer()] = None
    """How the windows of a SwinV2 compute attention; null means `auto`, which chooses by device and window. All of
    them compute the same but for the order of sums; see `fd_scale.models.attention.paths`."""
    window_chunk: Annotated[Count | None, MayDiffer()] = None
    """Number of windows of a SwinV2 that attend at a time, counted over all images; null attends all at once. A chunk
    is computed again in the backward pass, which saves memory where windows are large. Not with `attention: flex`, and
    `tiled` does not need it."""
    weights: str | None = None
    """Weights to start from: a file of a published format, an export, or `timm:NAME`; null draws them at random. See
    `fd_scale.models.weights`."""
    weights_key: Annotated[str | None, Formerly(_first_weights_key)] = None
    """Key of the tensors in the file of `weights`, where it holds several models; `raw` means the weights
    themselves where the file also has an average of them. By default the average is taken, where there is one."""
    neutral_gaps: bool = False
    """Whether to fill what `weights` lacks with the value at which it does nothing (LayerScale 1, biases 0), where
    there is one. By default weights with such gaps are refused."""
