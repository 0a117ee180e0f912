"""A teacher as one file for machines without network: weights, architecture, statistics, licence, source and hash.

Leaves out other image sizes than the native one: positions are resampled when the file is read.
"""

from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.files import check_target, sha256_of
from fd_scale.models import from_timm
from fd_scale.models.weights.reading import read_file
from fd_scale.models.weights.timm_loading import load_from_file, load_from_hub
from fd_scale.teachers import our_models
from fd_scale.teachers.files import refuse_existing, write
from fd_scale.teachers.sources import check_timm, split_spec


def fetch_teacher(spec: str, out: Path, *, pixels: str | None, key: str | None) -> dict[str, Any]:
    """Write the teacher of a spec to `out`, which `teacher.spec=file:OUT` then reads without network.

    Args:
        spec: `timm:NAME`, which needs network, `timm:NAME@PATH` or `fd_scale:NAME@PATH`.
        pixels: statistics of an own model's images, where its name does not say them: imagenet, clip or half.
        key: of the tensors in the file of a path, see `fd_scale.models.weights.reading.read_file`.

    Returns:
        What the file says of itself.

    Raises:
        BadInput: a spec, name or weights that do not fit; no network; `out` exists or is no safetensors.
    """
    if out.suffix != ".safetensors":
        raise BadInput(f"{out} would be a safetensors file; give it that ending")
    check_target(out, "OUT")
    refuse_existing(out)
    kind, name, path = split_spec(spec)
    if kind == "file":
        raise BadInput(f"{spec} is a file that describes itself already; copy it")
    try:
        make = _ours if kind == "fd_scale" else _of_timm
        tensors, stated = make(name, path, pixels, key)
    except BadInput as error:
        raise BadInput(f"teacher {spec}: {error}") from error
    stated["source"] = _source(name, path)
    return {**stated, "sha256": write(out, tensors, stated)}


def _of_timm(
    name: str, path: Path | None, pixels: str | None, key: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_timm(name, path)
    if pixels is not None:
        raise BadInput(f"timm knows the pixel statistics of {name}: leave out pixels")
    if path is None and key is not None:
        raise BadInput(f"timm publishes one set of weights as {name}: leave out --key")
    model, where = load_from_file(name, {}, {}, path, key) if path else (load_from_hub(name, {}), "")
    stated = {
        "timm_model": name,
        "timm_kwargs": {"num_classes": model.num_classes},
        "timm": timm.__version__,
        "mean": model.pretrained_cfg["mean"],
        "std": model.pretrained_cfg["std"],
        "licence": from_timm.licence_of(name),
        "description": f"{name}{where}",
    }
    return model.state_dict(), stated


def _ours(
    name: str, path: Path | None, pixels: str | None, key: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    assert path is not None
    facts = our_models.facts(name, pixels, name)
    model, where = our_models.build(name, path, our_models.native_size(name), key=key)  # refuses what would not fit
    stated = {
        "own_model": name,
        "mean": facts.mean,
        "std": facts.std,
        "licence": facts.licence,
        "description": f"{facts.description}{where}",
        "windows": getattr(model, "told_windows", None),
    }
    return read_file(path, key).tensors, stated


def _source(name: str, path: Path | None) -> dict[str, str]:
    """Where the weights came from: a file by its hash, or a place on the hub."""
    if path is None:
        facts = get_pretrained_cfg(name)
        return {"from": f"huggingface.co/{facts.hf_hub_id}" if facts.hf_hub_id else str(facts.url)}
    return {"from": path.name, "sha256": sha256_of(path)}
