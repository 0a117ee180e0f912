"""timm's models: asked about by name, for teachers and students alike, and any of them as a student.

catalogue   names, what a model needs for an image size, where its tokens come out
structure   a model without memory for its weights, probed for what a student needs
student     the `Backbone` of it

Leaves out weights: `fd_scale.models.weights` has timm's converters and its names of published weights.
"""

from fd_scale.models.from_timm.catalogue import (
    as_tokens,
    check_divisible,
    check_name,
    first_words,
    last_norm,
    leave_features_only,
    licence_of,
    native_size,
    outline,
    published,
    size_arguments,
    stride_of,
    tags,
)
from fd_scale.models.from_timm.student import TimmStudent

__all__ = [
    "TimmStudent",
    "as_tokens",
    "check_divisible",
    "check_name",
    "first_words",
    "last_norm",
    "leave_features_only",
    "licence_of",
    "native_size",
    "outline",
    "published",
    "size_arguments",
    "stride_of",
    "tags",
]
