"""A frozen model as teacher: one layout of tokens for every family, the final norm on each, pixel statistics.

Leaves out where weights come from (`sources`, `our_models`), normalising images, whitening and sharding.
B images, P prefix tokens (CLS, distillation, registers), gh x gw grid of the map, C channels (`width`).
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.func import functional_call

from fd_scale.errors import BadInput
from fd_scale.models.backbone import Backbone
from fd_scale.models.from_timm import (
    as_tokens,
    check_divisible,
    first_words,
    last_norm,
    leave_features_only,
    stride_of,
)
from fd_scale.models.weights.sealed import digest

ChannelStatistics = tuple[float, ...]


@dataclass(frozen=True)
class Facts:
    """Facts that a teacher's weights do not say. `mean` and `std` are what its images must be normalised with."""

    mean: ChannelStatistics
    std: ChannelStatistics
    licence: str
    description: str


class Teacher(nn.Module):
    """Frozen teacher, in eval for good, without gradient and drop path; `sources.build_teacher` makes it.

    Attributes: `mean` and `std` (the pixel statistics that its images must be normalised with), `width`, `stride` (in
    pixels), `num_prefix_tokens`, `licence`, `description`.
    """

    def __init__(self, model: Any, image_size: int, facts: Facts, logits: bool = False):
        """Takes over `model` and its weights, of timm or of this package. Raises BadInput when it gives no token map.

        With `logits` it answers with what its own classifier or projection says, as one token without a map: (B, 1, K).
        """
        super().__init__()
        self.mean, self.std = facts.mean, facts.std
        self.licence, self.description = facts.licence, facts.description
        self.stride = model.strides[-1] if isinstance(model, Backbone) else stride_of(model)
        self.logits = logits
        if logits and not getattr(model, "num_classes", 0):
            raise BadInput(
                f"teacher {self.description} has neither classifier nor projection, so target.kind=logits asks for "
                "nothing; set target.kind to feature_map or gap"
            )
        if not logits and not isinstance(model, Backbone):
            leave_features_only(model)
            # Called as a module, not by `model.forward_features`: sharding gathers the parameters that a module itself
            # owns (position embedding, CLS) in the hooks of its call.
            model.forward = model.forward_features
        self.model = model
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
        self.requires_grad_(False)
        self.eval()

        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.num_prefix_tokens = 0 if logits else getattr(model, "num_prefix_tokens", 0)
        gh, gw = self.grid(image_size, image_size)
        tokens = self._shape_of_tokens(image_size)
        if logits:
            self.width = tokens[2]
            return
        if len(tokens) != 3 or tokens[1] != self.num_prefix_tokens + gh * gw:
            raise BadInput(
                f"teacher {self.description} gives {'x'.join(map(str, tokens[1:]))} values for {image_size} x "
                f"{image_size} pixels, not {self.num_prefix_tokens} tokens and a map of {gh} x {gw}: it cannot be "
                "distilled by tokens, use another"
            )
        self.width = tokens[2]

    def forward(self, images: Tensor) -> Tensor:
        """Compute tokens (B, P + gh*gw, C): prefix tokens, then the map by rows.

        Images are (B, 3, H, W), normalised with `mean` and `std`.
        """
        tokens = self.model(images)
        if self.logits:
            return tokens[:, None]
        norm = None if isinstance(self.model, Backbone) else last_norm(self.model)
        if norm is not None:
            tokens = norm(tokens)
        return as_tokens(tokens, channels_last=self.channels_last)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map for images of that size.

        Raises BadInput when the stride does not divide it.
        """
        for side in (height, width):
            check_divisible(f"teacher {self.description}", side, self.stride)
        return height // self.stride, width // self.stride

    def train(self, mode: bool = True) -> Self:
        """Stay in eval: a trainer that switches all its modules must not change the target."""
        return super().train(False)

    def fingerprint(self) -> str:
        """Hash names, types, shapes and bytes of all weights with SHA-256; ask before they are sharded."""
        return digest(sorted(self.model.state_dict().items()))

    def _shape_of_tokens(self, image_size: int) -> torch.Size:
        """The output's shape, found on the meta device, which costs neither time nor memory. Our backbones know it."""
        if isinstance(self.model, Backbone):
            gh, gw = self.model.grid(image_size, image_size)
            return torch.Size((1, self.model.num_prefix_tokens + gh * gw, self.model.width))
        weights = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        on_meta = {name: tensor.to("meta") for name, tensor in weights.items()}
        images = torch.empty(1, len(self.mean), image_size, image_size, device="meta")
        try:
            with torch.no_grad():
                return functional_call(self, on_meta, (images,)).shape
        except Exception as error:  # whatever a model makes of a size, or gives instead of one tensor
            raise BadInput(
                f"teacher {self.description} gives no tokens for {image_size} x {image_size} pixels "
                f"({first_words(error)}); use another size or another teacher"
            ) from error


def facts_of(model: Any, licence: str, description: str) -> Facts:
    """Facts of a timm model, which carries the pixel statistics of its weights."""
    return Facts(tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]), licence, description)
