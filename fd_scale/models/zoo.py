"""Student backbones by name. Refuses contradictions before anything is built."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from fd_scale.errors import BadInput
from fd_scale.fields import Pixels
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.families import KEYS_OF_SOME, family_of, takers_of


def student_of_origin(origin: Mapping[str, Any], path: Path) -> tuple[StudentConfig, int]:
    """Read what an export says of its student, and of the side of its images in pixels.

    Raises:
        BadInput: it says nothing of the kind, or a later version wrote it.
    """
    try:
        stated = dict(origin["student"])
        config = pydantic.TypeAdapter(StudentConfig).validate_python(stated)
        image_size = pydantic.TypeAdapter(Pixels).validate_python(origin["image_size"])
    except (pydantic.ValidationError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} does not say which student it is: {error}; export or convert it again") from None
    unknown = sorted(map(str, stated.keys() - {field.name for field in dataclasses.fields(StudentConfig)}))
    if unknown:
        raise BadInput(f"{path}: this version knows no {unknown[0]!r} of a student; use the one that exported it")
    return config, image_size


def build_student(config: StudentConfig, image_size: int) -> Backbone:
    """Build the backbone for square images of `image_size` px, its parameters neither initialised nor loaded.

    Raises BadInput.
    """
    if not 0 <= config.drop_path < 1:
        raise BadInput(f"student drop_path {config.drop_path} is not in [0, 1); published recipes use 0.1 to 0.4")
    family = family_of(config.name)
    for key in KEYS_OF_SOME:
        if getattr(config, key) is not None and key not in family.keys:
            reason = family.other_keys.format(name=config.name)
            raise BadInput(f"student {key} is a key of {' and '.join(takers_of(key))}; {reason}: remove it")
    return family.build(config, image_size)
