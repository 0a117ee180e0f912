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
    spec: str
    """Where the teacher comes from.

    - `timm:NAME`: a pretrained timm model from its hub, such as `timm:vit_small_patch16_224.dino`.
    - `timm:NAME@PATH`: the same with weights from a local safetensors or torch file.
    - `fd_scale:NAME@PATH`: a model that timm has no name for. This is EsViT's Swin, such as
      `fd_scale:esvit_swin_base_window14@PATH`, or one of our students with weights of a published format, such as
      `fd_scale:swin_v2_giant@PATH`.
    - `file:PATH`: a safetensors file that says what it is, from `fd-scale fetch-teacher`, `fd-scale export` or
      tools/train_demo_teacher.py.
    - `demo`: the small one that is shipped for the demo.
    """
    weights_key: Annotated[str | None, Formerly(_first_weights_key)] = None
    """Key of the tensors in PATH, where the file holds several models; `raw` means the weights themselves where
    the file also has an average of them. By default the average is taken, where there is one."""
    pixels: str | None = None
    """Pixel statistics of the teacher's images, for `fd_scale:NAME@PATH` alone: `imagenet` (the default where it is
    certain), `clip` or `half`. Other teachers know theirs."""
    sharded: bool = False
    """Whether the frozen weights are spread over the ranks, instead of a replica on each."""
