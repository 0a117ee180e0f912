"""The configuration of a teacher; `sources` builds what it names.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fd_scale.fields import Formerly
from fd_scale.models.config import RAW


def _first_weights_key(teacher: dict[str, Any]) -> str | None:
    """Of a run from before there was a choice: averages were taken by timm alone."""
    return RAW if str(teacher.get("spec")).startswith("fd_scale:") else None


@dataclass(frozen=True)
class TeacherConfig:
    """`spec` says where the teacher comes from.

    timm:NAME           a pretrained timm model, from its hub, e.g. timm:vit_small_patch16_224.dino
    timm:NAME@PATH      the same with weights from a local safetensors or torch file
    fd_scale:NAME@PATH  a model that timm has no name for: EsViT's Swin, e.g. fd_scale:esvit_swin_base_window14@PATH, or
                        one of our students with weights of a published format, e.g. fd_scale:swin_v2_giant@PATH
    file:PATH           a safetensors that says what it is: from `fd-scale fetch-teacher`, `fd-scale export` or
                        tools/train_demo_teacher.py
    demo                the small one shipped for the demo
    """

    spec: str
    # of the tensors in PATH, as `student.weights_key`
    weights_key: Annotated[str | None, Formerly(_first_weights_key)] = None
    pixels: str | None = None  # of fd_scale: imagenet (default where it is certain), clip or half
    sharded: bool = False  # spread the frozen weights over the ranks instead of a replica on each
