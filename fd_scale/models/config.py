"""The configuration of a student; `zoo` builds what it names.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fd_scale.fields import Count, Formerly, Limit, NotNegative, PartialShare, Pixels

AttentionChoice = Literal["auto", "reference", "sdpa", "flex", "tiled"]


TIMM_PREFIX = "timm:"


RAW = "raw"
"""As a key: the weights themselves, also where an average stands beside them."""


def _first_weights_key(student: dict[str, Any]) -> str | None:
    """Of a run from before there was a choice: averages were taken by timm alone."""
    return None if str(student.get("name")).startswith(TIMM_PREFIX) else RAW


@dataclass(frozen=True)
class StudentConfig:
    """None stands for the default of the named size.

    name: one of `names()`; or `timm:NAME` for any timm model with a map of tokens.
    patch_size: pixels of a patch's side.
    drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
    position_bias: SwinV2 `per_block` (default) or `shared` (one per stage); ViT `shared` (default), `per_block`,
        `absolute`.
    window: SwinV2's window in tokens, or that of a timm Swin. It shrinks to a map that is smaller.
    pretrained_window: SwinV2's window of each stage when the weights were trained, if that was another one.
    extra_norm_every: SwinV2's norm on the main branch after every n-th block of a stage, 0 for none.
    residual_norm_init: SwinV2's initial weight of the norms inside blocks.
    attention: how SwinV2's windows attend: `auto` (default) or a path of `attention.paths`. Not what they compute.
    window_chunk: SwinV2's windows attend so many at a time, all images counted, and once more in the backward pass;
        saves memory where windows are large. Not with `attention: flex`, and `tiled` has no need of it.
    weights: a file of a published format, an export, or `timm:NAME` to start from; see `fd_scale.models.weights`.
    weights_key: of the tensors in that file, where it holds several models: a key, or `raw` for the weights themselves
        where an average of them stands beside. By default the average, where there is one.
    neutral_gaps: fill what those weights lack, and what has a value at which it does nothing (LayerScale 1, biases 0),
        with that value; else such weights are refused.
    """

    name: str
    patch_size: Pixels | None = None
    drop_path: PartialShare = 0.1
    position_bias: Literal["absolute", "per_block", "shared"] | None = None
    window: Count | None = None
    pretrained_window: tuple[Count, Count, Count, Count] | None = None
    extra_norm_every: Limit | None = None
    residual_norm_init: NotNegative | None = None
    attention: AttentionChoice | None = None
    window_chunk: Count | None = None
    weights: str | None = None
    weights_key: Annotated[str | None, Formerly(_first_weights_key)] = None
    neutral_gaps: bool = False
