"""Where teachers come from: one spec, `timm:NAME`, `timm:NAME@PATH`, `file:PATH` or `demo`, to a frozen `Teacher`.

timm holds the architectures and converts published checkpoints; every load here is strict, since a teacher with one
random tensor gives wrong targets without a sign. Leaves out downloads other than timm's, and other formats.
"""

import contextlib
import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model
from torch import nn

from fd_scale.errors import BadInput
from fd_scale.teachers.teacher import Teacher, indivisible, stride_of

METADATA_KEY = "fd_scale_teacher"
DEMO = Path(__file__).parents[1] / "demo" / "teacher.safetensors"
FORMS = "timm:NAME, timm:NAME@PATH, file:PATH or demo"


@dataclass(frozen=True)
class TeacherConfig:
    """`spec` says where the teacher comes from.

    timm:NAME       a pretrained timm model, from its hub, e.g. timm:vit_small_patch16_224.dino
    timm:NAME@PATH  the same with weights from a local safetensors or torch file
    file:PATH       a safetensors whose metadata name the architecture, e.g. made by tools/train_demo_teacher.py
    demo            the small one shipped for the demo
    """

    spec: str
    sharded: bool = False  # spread the frozen weights over the ranks instead of a replica on each


def build_teacher(config: TeacherConfig, image_size: int, logits: bool = False) -> Teacher:
    """The frozen teacher for square images of `image_size` pixels; position embeddings are resampled for it.

    `logits`: it answers with what its own classifier or projection says of an image, instead of tokens.

    Raises BadInput for a spec, name, size, file or weights that do not fit, and without network where it is needed.
    """
    kind, _, place = config.spec.partition(":")
    if config.spec == "demo":
        return _from_file(DEMO, image_size, logits)
    if kind == "file" and place:
        return _from_file(Path(place).expanduser(), image_size, logits)
    if kind == "timm" and place:
        name, _, path = place.partition("@")
        return _from_timm(name, Path(path).expanduser() if path else None, image_size, logits)
    raise BadInput(f"unknown teacher {config.spec!r}: write {FORMS}")


def _from_timm(name: str, path: Path | None, image_size: int, logits: bool) -> Teacher:
    _check_name(name)
    tags = get_arch_pretrained_cfgs(name.split(".")[0])
    if path is None and not get_pretrained_cfg(name).has_weights:
        raise BadInput(f"timm publishes no weights for {name}: write timm:{name}@PATH with your own")
    if path and "." not in name and len({(tag.mean, tag.std) for tag in tags.values()}) > 1:
        raise BadInput(
            f"teacher timm:{name}@{path}: {name} was trained with different pixel statistics; write the tag of the "
            f"one whose weights these are: {', '.join(tags)}"
        )
    licence = get_pretrained_cfg(name).license or "not stated by timm"
    description = f"{name}@{path}" if path else name
    return Teacher(_build(name, {}, {}, path, image_size), image_size, licence, description, logits)


def _from_file(path: Path, image_size: int, logits: bool) -> Teacher:
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[METADATA_KEY])
        name, kwargs = facts["timm_model"], dict(facts["timm_kwargs"])
        settings = {key: tuple(facts[key]) for key in ("mean", "std") if key in facts}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"teacher file:{path} is no safetensors that names its architecture (metadata {METADATA_KEY!r} with "
            "timm_model and timm_kwargs); for any other checkpoint write timm:NAME@PATH"
        ) from error
    _check_name(name)
    if "img_size" in kwargs:  # the grid that position embeddings are resampled from
        settings["input_size"] = (3, kwargs["img_size"], kwargs["img_size"])
    model = _build(name, kwargs, settings, path, image_size)
    return Teacher(model, image_size, facts.get("licence", "not stated"), facts.get("description", path.name), logits)


def _build(name: str, kwargs: dict, settings: dict, path: Path | None, image_size: int) -> nn.Module:
    """A timm model with the weights of `path`, or for None those that timm fetches; `settings` override timm's own."""
    kwargs = {key: value for key, value in kwargs.items() if key != "img_size" and "drop" not in key}
    with torch.device("meta"):  # an outline: sizes are refused before anything is fetched
        try:
            outline = timm.create_model(name, **kwargs)
        except Exception as error:  # whatever timm makes of arguments that a file's metadata state
            raise BadInput(f"timm cannot build {name} with {kwargs}: {_first_words(error)}") from error
    if image_size % stride_of(outline):
        raise BadInput(indivisible(name, image_size, stride_of(outline)))
    if outline.pretrained_cfg.get("fixed_input_size"):
        kwargs["img_size"] = image_size
    if path is None:
        try:
            return timm.create_model(name, pretrained=True, **kwargs)
        except Exception as error:  # the hub's client raises a dozen kinds
            raise BadInput(
                f"cannot fetch timm:{name} ({_first_words(error)}); without network, bring its file from "
                f"huggingface.co/timm/{name} and write timm:{name}@PATH"
            ) from error
    _check_file(path)
    try:
        return _load(name, kwargs, settings, path)
    except Exception as first:  # torch, safetensors and timm's converters each raise their own kinds
        with contextlib.suppress(Exception):
            return _load(name, {**kwargs, "num_classes": 0}, settings, path)  # a file without the classifier
        raise BadInput(
            f"{path} does not hold the weights of {name} ({_first_words(first)}); "
            "give a safetensors or torch file of exactly that model"
        ) from first


def _load(name: str, kwargs: dict, settings: dict, path: Path) -> nn.Module:
    """Through timm's own converters, which also resample position embeddings. Torch files: tensors only, no code."""
    if "num_classes" in kwargs:  # timm loads strictly only when model and file agree on the classes
        settings = {**settings, "num_classes": kwargs["num_classes"]}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={**settings, "file": str(path)}, **kwargs)


def _check_name(name: str) -> None:
    """Raises BadInput for a name unknown to timm, without published weights, or with the wrong activation."""
    architecture, _, tag = name.partition(".")
    if not is_model(architecture) or (tag and name not in get_arch_pretrained_cfgs(architecture)):
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), 3, cutoff=0.5)
        raise BadInput(
            f"timm {timm.__version__} has no model {name!r}" + (f"; near: {', '.join(near)}" if near else "")
        )
    notes = get_pretrained_cfg(name).notes or ()
    if "quickgelu" not in architecture and any("natively QuickGELU" in note for note in notes):
        right = name.replace("_clip_", "_clip_quickgelu_")
        raise BadInput(f"teacher timm:{name} applies GELU to weights trained with QuickGELU; write timm:{right}")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"teacher: no file {path.absolute()}")


def _first_words(error: Exception) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= 300 else f"{words[:300]} ..."
