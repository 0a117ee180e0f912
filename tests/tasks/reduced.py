"""The one rule by which shipped configs are made smaller: a reduced size under each name that they say.

Every kind of block stays: shifted windows beside plain ones, and the extra norm where a size has one, which takes as
many blocks as stand between two. Own sizes are entered in the tables under their own names; models of timm are built
with timm's own keywords. Windows, patches, heads' number of stages and everything that a config says stay as they are.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from support.helpers import REPOSITORY
from timm.models import get_pretrained_cfg
from timm.models._registry import _model_entrypoints

from fd_scale.models import swin_v2, vit

SWIN_WIDTH, SWIN_HEADS, SWIN_DEPTH = 16, (1, 2, 4, 8), 2
VIT_WIDTH, VIT_HEADS, VIT_DEPTH = 48, 3, 3
TIMM_SWIN = {"embed_dim": SWIN_WIDTH, "depths": (SWIN_DEPTH,) * 4, "num_heads": SWIN_HEADS}
TIMM_VIT = {"embed_dim": VIT_WIDTH, "depth": VIT_DEPTH, "num_heads": VIT_HEADS}

SHIPPED = sorted((REPOSITORY / "configs").glob("*/*.yaml"))


def timm_names() -> set[str]:
    """Those that stand in a shipped config, without their tags."""
    words = {word for path in SHIPPED for word in _words(yaml.safe_load(path.read_text()))}
    named = {word.removeprefix("timm:").partition("@")[0] for word in words if word.startswith("timm:")}
    return {name.partition(".")[0] for name in named}


def register() -> None:
    """In this process, for good."""
    swin_v2.SIZES.update({name: reduced_swin(size) for name, size in swin_v2.SIZES.items()})
    vit.SIZES.update({name: reduced_vit(size) for name, size in vit.SIZES.items()})
    for name in {*timm_names(), "swin_base_patch4_window7_224"}:  # the last stands behind EsViT's name
        _model_entrypoints[name] = _with(_model_entrypoints[name], TIMM_SWIN if name.startswith("swin") else TIMM_VIT)


def reduced_swin(size: swin_v2.SwinV2Size) -> swin_v2.SwinV2Size:
    """Each stage with at most two blocks, or so many that the extra norm comes once; a small one as it is."""
    if size.embed_dim <= 2 * SWIN_WIDTH:
        return size
    every = size.extra_norm_every
    depths = tuple(every if 0 < every <= depth else min(depth, SWIN_DEPTH) for depth in size.depths)
    return replace(size, embed_dim=SWIN_WIDTH, depths=depths, heads=SWIN_HEADS)


def reduced_vit(size: vit.ViTSize) -> vit.ViTSize:
    if size.width <= 2 * VIT_WIDTH:
        return size
    return replace(size, width=VIT_WIDTH, depth=VIT_DEPTH, heads=VIT_HEADS, mlp_width=None)


def _with(build: Callable[..., Any], words: dict[str, Any]) -> Callable[..., Any]:
    @wraps(build)
    def built(pretrained: bool = False, **given: Any) -> Any:
        return build(pretrained=pretrained, **{**words, **given})

    return built


def _words(tree: Any) -> set[str]:
    """All texts of a configuration."""
    if isinstance(tree, dict):
        return {word for value in tree.values() for word in _words(value)}
    return {tree} if isinstance(tree, str) else set()


def publish(folder: Path) -> None:
    """Random weights in the format and at the place in which shipped configs look for published ones: timm's in a cache
    of its hub, `hub`, and files of other projects under `files`."""
    from tasks.published import write_files  # builds models, so their sizes are registered first

    names = {word.removeprefix("timm:") for path in SHIPPED for word in _words(yaml.safe_load(path.read_text()))}
    for name in sorted(names):
        if name.partition(".")[0] in timm_names() and "@" not in name and get_pretrained_cfg(name).has_weights:
            _into_hub(folder / "hub", name)
    write_files(folder / "files")


def _into_hub(hub: Path, name: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(name)
    snapshot = hub / f"models--{get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": name.partition(".")[0]}))
