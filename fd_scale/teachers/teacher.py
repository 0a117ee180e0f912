"""A frozen timm model as teacher: one layout of tokens for every family, the final norm on each, pixel statistics.

Leaves out where weights come from (`sources`), normalising images, whitening and sharding.
B images, P prefix tokens (CLS, distillation, registers), gh x gw grid of the map, C channels (`width`).
"""

import hashlib
from typing import Any, Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.func import functional_call

from fd_scale.errors import BadInput


class Teacher(nn.Module):
    """Eval for good, without gradient and drop path; `sources.build_teacher` makes it.

    Attributes: `mean` and `std` (the pixel statistics that its images must be normalised with), `width`, `stride` (in
    pixels), `num_prefix_tokens`, `licence`, `description`.
    """

    def __init__(self, model: Any, image_size: int, licence: str, description: str, logits: bool = False):
        """Takes over `model`, a timm model with its weights. Raises BadInput when it gives no token map.

        With `logits` it answers with what its own classifier or projection says, as one token without a map: (B, 1, K).
        """
        super().__init__()
        self.mean: tuple[float, ...] = tuple(model.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(model.pretrained_cfg["std"])
        self.licence = licence
        self.description = description
        self.stride = stride_of(model)
        # Called as a module, not by `model.forward_features`: sharding gathers the parameters that a module itself
        # owns (position embedding, CLS) in the hooks of its call.
        self.logits = logits
        if not logits:
            model.reset_classifier(0)
            model.forward = model.forward_features
        elif not model.num_classes:
            raise BadInput(
                f"teacher {description} has neither classifier nor projection, so target.kind=logits asks for nothing; "
                f"set target.kind to feature_map or gap"
            )
        self.model = model
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
        self.requires_grad_(False)
        self.eval()

        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.num_prefix_tokens = 0
        tokens = self._shape_of_tokens(image_size)
        self.width = tokens[2]
        if logits:
            return
        gh, gw = self.grid(image_size, image_size)
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        if tokens[1] != self.num_prefix_tokens + gh * gw:
            raise BadInput(
                f"teacher {description} gives {tokens[1]} tokens for {image_size} x {image_size} pixels, not "
                f"{self.num_prefix_tokens} and a map of {gh} x {gw}: it cannot be distilled by tokens, use another"
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised with `mean` and `std` -> (B, P + gh*gw, C): prefix tokens, then the map by rows."""
        tokens = self.model(images)
        if self.logits:
            return tokens[:, None]
        norm = self._late_norm()
        if norm is not None:
            tokens = norm(tokens)
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2) if self.channels_last else tokens.flatten(2).transpose(1, 2)
        return tokens

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The map's rows and columns for images of that size. Raises BadInput when the stride does not divide it."""
        for side in (height, width):
            if side % self.stride:
                raise BadInput(indivisible(self.description, side, self.stride))
        return height // self.stride, width // self.stride

    def train(self, mode: bool = True) -> Self:
        """Stays in eval: a trainer that switches all its modules must not change the target."""
        return super().train(False)

    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights; ask before they are sharded."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _late_norm(self) -> nn.Module | None:
        """The final norm where timm applies it only behind the pooling: `fc_norm` of ViTs, the head's of conv nets."""
        for norm in (getattr(self.model, "fc_norm", None), getattr(getattr(self.model, "head", None), "norm", None)):
            if norm is not None and not isinstance(norm, nn.Identity):
                return norm
        return None

    def _shape_of_tokens(self, image_size: int) -> torch.Size:
        """The output's shape, found on the meta device: costs neither time nor memory."""
        weights = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        on_meta = {name: tensor.to("meta") for name, tensor in weights.items()}
        images = torch.empty(1, len(self.mean), image_size, image_size, device="meta")
        with torch.no_grad():
            return functional_call(self, on_meta, (images,)).shape


def stride_of(model: Any) -> int:
    """Pixels per token of the last map."""
    return int(model.feature_info[-1]["reduction"])


def indivisible(description: str, side: int, stride: int) -> str:
    below = side // stride * stride
    sizes = f"{below} or {below + stride}" if below else f"{stride}"
    return f"teacher {description}: images of {side} pixels are not divisible by its stride of {stride}; use {sizes}"
