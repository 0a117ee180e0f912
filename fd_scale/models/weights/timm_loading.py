"""Weights into a model that timm builds: by timm's own converters, strictly, from a file or from the hub.

Published checkpoints of many families go through them: names are changed, position embeddings resampled for the size
that the model is built for. A file counts only if it fills the model exactly; its classifier may be missing.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.from_timm import first_words
from fd_scale.models.weights.formats import bare_names
from fd_scale.models.weights.reading import read_file, refuse_unusable

HUB_SECONDS = 10.0
"""How long the hub may take to say that it is there; its client's own retries take 46 s before they give up."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
"""Names of weights in a hub repository that its client may have stored on this machine before."""

NUMPY = (".npz", ".npy")
WITHOUT_USE = re.compile(r"(head|head_dist|head_dense)\.(?!norm\.)|decoder[._]|mask_token$")
"""Heads of training, and the decoders of MAE and SimMIM. The norm of a conv net's head is the final norm."""


def load_from_hub(name: str, kwargs: dict[str, Any]) -> Any:
    """Build a model with the weights that timm publishes under that name.

    Raises BadInput where they cannot be had, or hold NaN or infinity.
    """
    _look_for_hub(name)
    try:
        model = timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # the hub's client raises a dozen kinds
        raise _unreachable(name, error) from error
    refuse_unusable(learned(model), f"timm:{name}")
    return model


def load_from_file(
    name: str, kwargs: dict[str, Any], settings: dict[str, Any], path: Path, key: str | None = None
) -> tuple[Any, str]:
    """Build a model with the weights of a file.

    Returns it, and `WeightsFile.where` they were in the file.

    Args:
        settings: override what timm knows of the model's published weights.
        key: see `read_file`, which reads all but the arrays of numpy that timm has readers of its own for.

    Raises:
        BadInput: a missing file, one with code in it, or weights of another model or size.
    """
    if not path.is_file():
        raise BadInput(f"no file {path.absolute()}")
    headless = {**kwargs, "num_classes": 0}
    if path.suffix in NUMPY:
        attempts: list[tuple[dict[str, Any], dict[str, Any]]]
        attempts = [(kwargs, {"file": str(path)}), (headless, {"file": str(path)})]
        where = ""
    else:
        file = read_file(path, key)
        where = file.where
        bare = {short: file.tensors[name] for name, short in bare_names(file.tensors).items()}
        backbone = {short: tensor for short, tensor in bare.items() if not WITHOUT_USE.match(short)}
        # As it is; without what was around it; without the classifier; of a training script, with heads beside it.
        sources = [(kwargs, file.tensors), (kwargs, bare), (headless, file.tensors), (headless, bare)]
        attempts = [(words, {"state_dict": _shared(tensors)}) for words, tensors in [*sources, (headless, backbone)]]
    first: Exception | None = None
    for arguments, source in attempts:
        try:
            model = _load(name, arguments, {**settings, **source})
        except Exception as error:  # torch, safetensors and timm's converter each raise their own kinds
            first = first or error
        else:
            refuse_unusable(learned(model), str(path))
            return model, where
    assert first is not None
    raise BadInput(
        f"{path} does not hold the weights of {name} ({first_words(first)}); "
        "give a safetensors or torch file of exactly that model"
    ) from first


def load_tensors(name: str, kwargs: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Build a model without classifier from tensors of any prefix, which may stand beside the heads of their training.

    Raises whatever timm does where they do not fit.
    """
    bare = {short: tensors[key] for key, short in bare_names(tensors).items()}
    bare = {key: tensor for key, tensor in bare.items() if not WITHOUT_USE.match(key)}
    return _load(name, {**kwargs, "num_classes": 0}, {**settings, "state_dict": _shared(bare)})


def learned(model: Any) -> dict[str, Tensor]:
    """Parameters and running statistics of a model.

    Other buffers may be infinite by design, as Gemma's limits of activations.
    """
    statistics = {name: b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    return {**dict(model.named_parameters()), **statistics}


class _Uncopied(Tensor):
    """A tensor among timm's settings, which it copies more than once: each copy would be another of all weights."""

    # What is computed of it is an ordinary tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> "_Uncopied":
        return self


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.as_subclass(_Uncopied) for name, tensor in tensors.items()}


def _load(name: str, kwargs: dict[str, Any], settings: dict[str, Any]) -> Any:
    if "num_classes" in kwargs:  # timm loads strictly only when model and file agree on the classes
        settings = {**settings, "num_classes": kwargs["num_classes"]}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=settings, **kwargs)
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _look_for_hub(name: str) -> None:
    """Ask the hub once, without the retries of its client, unless the weights are on this machine already.

    Raises BadInput when it does not answer.
    """
    repository = get_pretrained_cfg(name).hf_hub_id
    if repository is None or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in HUB_FILES):
        return
    try:
        url = huggingface_hub.hf_hub_url(repository, HUB_FILES[0])
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
    except huggingface_hub.errors.HfHubHTTPError:
        return  # it is there; what it objects to, timm's own fetch will find or say
    except Exception as error:  # no route, no name, no answer: each of its clients has kinds of its own
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> BadInput:
    return BadInput(
        f"cannot fetch timm:{name} ({first_words(error)}); without network, run `fd-scale fetch-teacher timm:{name} "
        f"OUT` where there is one and write file:OUT, or bring its file from huggingface.co/timm/{name} and write "
        f"timm:{name}@PATH"
    )
