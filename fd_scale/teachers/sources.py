"""Sources of teachers: one spec to a frozen `Teacher`.

timm holds most architectures and converts published checkpoints; every load here is strict, since a teacher with one
random tensor gives wrong targets without a sign. `our_models` has the models that timm has no name for,
`staging` writes the files that a machine without network reads.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fd_scale.errors import BadInput
from fd_scale.models import from_timm
from fd_scale.models.weights.timm_loading import load_from_file, load_from_hub
from fd_scale.models.zoo import build_student, student_of_origin
from fd_scale.pixels import PIXELS
from fd_scale.teachers import our_models
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.files import describe
from fd_scale.teachers.teacher import Facts, Teacher, facts_of

DEMO = Path(__file__).parents[1] / "demo" / "teacher.safetensors"
FORMS = "timm:NAME, timm:NAME@PATH, fd_scale:NAME@PATH, file:PATH or demo"


def build_teacher(config: TeacherConfig, image_size: int, logits: bool = False) -> Teacher:
    """Build the frozen teacher for square images of `image_size` pixels; position embeddings are resampled for it.

    `logits`: it answers with what its our_models classifier or projection says of an image, instead of tokens.

    Raises BadInput for a spec, name, size, file or weights that do not fit, and without network where it is needed.
    """
    kind, name, path = split_spec(config.spec)
    if config.pixels is not None and (kind != "fd_scale" or config.pixels not in PIXELS):
        raise BadInput(
            f"teacher.pixels={config.pixels!r} is for fd_scale:NAME@PATH, and one of {', '.join(PIXELS)}: others "
            "know their statistics"
        )
    if config.weights_key is not None and path is None:
        raise BadInput(f"teacher.weights_key={config.weights_key!r} is for timm:NAME@PATH and fd_scale:NAME@PATH")
    try:
        if kind == "file":
            model, facts = _from_file(path or DEMO, image_size)
        elif kind == "fd_scale":
            assert path is not None
            facts = our_models.facts(name, config.pixels, f"{name}@{path}")
            model, where = our_models.build(name, path, image_size, key=config.weights_key)
            facts = replace(facts, description=facts.description + where)
        else:
            model, facts = _from_timm(name, path, image_size, config.weights_key)
        return Teacher(model, image_size, facts, logits)
    except BadInput as error:
        raise BadInput(f"teacher {config.spec}: {error}") from error


def outline_teacher(config: TeacherConfig, image_size: int, logits: bool = False) -> Teacher:
    """Build a teacher without weights, on the meta device, to plan with.

    It needs no network, and files for `file:` alone.

    Raises BadInput as `build_teacher` does for what needs no weights.
    """
    kind, name, path = split_spec(config.spec)
    try:
        with torch.device("meta"):
            if kind == "file":
                model, facts = _outline_of_file(path or DEMO, image_size)
            elif kind == "fd_scale":
                facts = our_models.facts(name, config.pixels, name)
                model = our_models.outline(name, image_size)
            else:
                check_timm(name, path)
                model = from_timm.outline(name, _arguments(name, {}, image_size))
                facts = facts_of(model, from_timm.licence_of(name), name)
            return Teacher(model, image_size, facts, logits)
    except BadInput as error:
        raise BadInput(f"teacher {config.spec}: {error}") from error


def split_spec(spec: str) -> tuple[str, str, Path | None]:
    """Split a spec into kind, name and path.

    `demo` is the kind `file` without a path. Raises BadInput for a spec of no known form.
    """
    kind, _, rest = spec.partition(":")
    name, at, path = rest.partition("@")
    if spec == "demo":
        return "file", "", None
    if kind == "file" and rest:
        return kind, "", Path(rest).expanduser()
    if kind in ("timm", "fd_scale") and name and bool(at) == bool(path) and (path or kind == "timm"):
        return kind, name, Path(path).expanduser() if path else None
    raise BadInput(f"unknown teacher {spec!r}: write {FORMS}")


def check_timm(name: str, path: Path | None) -> None:
    """Refuse a name of timm that cannot be a teacher.

    Raises:
        BadInput: it is unknown, has the wrong activation, no weights, or unclear statistics.
    """
    from_timm.check_name(name)
    tags = from_timm.tags(name)
    if path is None and not from_timm.published(name):
        raise BadInput(f"timm publishes no weights for {name}: write timm:{name}@PATH with your own")
    if path and "." not in name and len({(tag.mean, tag.std) for tag in tags.values()}) > 1:
        raise BadInput(
            f"{name} was trained with different pixel statistics; write the tag of the one whose weights these are: "
            f"{', '.join(tags)}"
        )


def _from_timm(name: str, path: Path | None, image_size: int, key: str | None) -> tuple[Any, Facts]:
    check_timm(name, path)
    arguments = _arguments(name, {}, image_size)  # a size is refused before anything is fetched
    if path is None:
        model = load_from_hub(name, arguments)
        return model, facts_of(model, from_timm.licence_of(name), name)
    model, where = load_from_file(name, arguments, {}, path, key)
    return model, facts_of(model, from_timm.licence_of(name), f"{name}@{path}{where}")


def _from_file(path: Path, image_size: int) -> tuple[Any, Facts]:
    described = describe(path)
    if described.student:
        return our_models.exported(described.student, path, image_size), described.facts
    if described.own_model:
        return our_models.build(described.own_model, path, image_size, described.windows)[0], described.facts
    from_timm.check_name(described.timm_model)
    arguments = _arguments(described.timm_model, described.timm_kwargs, image_size)
    model, _ = load_from_file(described.timm_model, arguments, described.settings, path)
    return model, facts_of(model, described.facts.licence, described.facts.description)


def _outline_of_file(path: Path, image_size: int) -> tuple[Any, Facts]:
    described = describe(path)
    if described.student:
        student = replace(student_of_origin(described.student, path)[0], drop_path=0.0)
        return build_student(student, image_size), described.facts
    if described.own_model:
        return our_models.outline(described.own_model, image_size), described.facts
    from_timm.check_name(described.timm_model)
    model = from_timm.outline(described.timm_model, _arguments(described.timm_model, described.timm_kwargs, image_size))
    stated = described.settings
    model.pretrained_cfg = {**model.pretrained_cfg, **{key: stated[key] for key in ("mean", "std") if key in stated}}
    return model, facts_of(model, described.facts.licence, described.facts.description)


def _arguments(name: str, kwargs: dict[str, Any], image_size: int) -> dict[str, Any]:
    """What timm builds the model with for that size. Raises BadInput when its stride does not divide it."""
    kwargs = {key: value for key, value in kwargs.items() if "drop" not in key}
    native = from_timm.outline(name, kwargs)
    from_timm.check_divisible(name, image_size, from_timm.stride_of(native))
    kwargs.pop("img_size", None)
    return {**kwargs, **from_timm.size_arguments(native, image_size)}
