"""The part that both backbones share: building from a name, weights from a file or by rule, keys for drop path."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModule
from torch import Tensor

from fd_scale.config import validated
from fd_scale.errors import BadInput
from fd_scale.keyed import sample_keys
from fd_scale.models.backbone import Backbone
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale_downstream.weights import load

ARCHITECTURE = ("patch_size", "position_bias", "window", "extra_norm_every")
FREE_CHOICES = ("attention", "window_chunk")
"""Of a backbone: what may differ between two starts of one run."""


class FDBackbone(BaseModule):
    """Base of the backbones for MMSegmentation and MMDetection.

    `model` is the fd_scale backbone. What a subclass adds around it is trained from its own initialisation.

    weights: an export, a published file or `timm:NAME`, for `fd_scale_downstream.weights.load`. Of an export, the
        architecture is taken over where the config says nothing.
    weights_key, neutral_gaps: see `fd_scale.models.config.StudentConfig`.
    seed: of the initialisation of what the file does not fill, and of drop path.
    """

    model: Backbone

    def __init__(self, weights: str | None, seed: int, neutral_gaps: bool = False, weights_key: str | None = None):
        super().__init__()
        self.weights, self.weights_key = weights, weights_key
        self.neutral_gaps = neutral_gaps
        self.seed = seed

    def init_weights(self) -> None:
        """Initialise the backbone and load its weights.

        mmengine calls it before training, but not before a whole checkpoint is loaded for testing.
        """
        initialise_all(self.model, self.seed)
        if self.weights is not None:
            report = load(self.model, self.weights, neutral=self.neutral_gaps, key=self.weights_key)
            print_log(f"{report}; {self.resized()}", logger="current")
        self._is_init = True

    def resized(self) -> str:
        """Describe, for the report, what was resized to another window or grid than that of the weights."""
        raise NotImplementedError

    def keys(self, images: Tensor) -> Tensor | None:
        """Keys (B,) that decide drop path in training.

        They follow from iteration, rank and position in the batch, whatever torch drew before.

        So a resumed run drops what the uninterrupted one would have, and recomputation repeats itself.
        """
        if not self.training:
            return None
        iteration = MessageHub.get_current_instance().get_info("iter")
        if iteration is None:  # not inside a runner: the model itself says what it needs
            return None
        first = get_rank() * len(images)
        return sample_keys(self.seed, iteration, range(first, first + len(images))).to(images.device)


def build(config: dict[str, Any], origin: dict[str, Any] | None, image_size: int) -> Backbone:
    """Build the fd_scale backbone of a configuration; keys that are None are taken from the export of that origin."""
    if origin is not None:
        exported = origin["student"]
        if exported["name"] != config["name"]:
            raise BadInput(f"the weights are of a {exported['name']}, but the backbone's name is {config['name']!r}")
        config = {**config, **{key: exported.get(key) for key in ARCHITECTURE if config.get(key) is None}}
    return build_student(validated(StudentConfig, config, section="backbone."), image_size)
