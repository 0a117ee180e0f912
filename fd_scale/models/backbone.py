"""The interface that every student backbone offers to the rest of the library, and the parts that all of them share.

A backbone knows nothing of losses, sharding or recomputation; those are applied from outside through this interface.
Two rules make it safe under ZeRO-3, which gathers a parameter in the hooks of the module that owns it:
  - a parameter is used only inside the forward of the module that directly owns it, and every module that owns
    parameters is called as `module(...)`, never as `module.forward(...)`;
  - sizes are kept as integers, because `parameter.shape` is empty while a parameter is partitioned.

Letters: B batch, H W pixels, h w tokens of a map, P prefix tokens, L = P + h*w, C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

CallBlock = Callable[..., Tensor]


def call_plainly(block: nn.Module, *tensors: Tensor | None) -> Tensor:
    """Call a block without recomputation: the default `call_block`."""
    return block(*tensors)


class Backbone(nn.Module):
    """Interface of a student backbone.

    The constructor does not initialise parameters: see `fd_scale.models.init`.

    width: channels of the token map.
    strides: pixels per position of each map of `forward_maps`, finest first; the last is the token map's.
    num_prefix_tokens: P, tokens before the map (0 for Swin, 1 for a ViT with a class token).
    told_windows: of a model with windows, the one of each stage by which it was told to scale its position bias; None
        where it takes its own, or has none.
    blocks: `blocks()` lists the transformer blocks in forward order.
    call_block: `call_block(block, *tensors)` runs one block; every block goes through it. Replace it to recompute
        activations, e.g. by `torch.utils.checkpoint.checkpoint(block, *tensors, use_reentrant=False)`. The tokens come
        first; an argument that a model has no use for is None. A block draws nothing from torch's generators: random
        numbers are among its arguments, so that a recomputed block repeats itself.
    activation_bytes: where a backbone offers it, `activation_bytes(shape, element_size)` estimates what each block
        keeps for its backward pass, given the shape and the bytes of a number of the first block's tokens.

    `keys`, (B,) int64 of `fd_scale.keyed.sample_keys`, decide what drop path drops: the same in whatever micro-batch
    the images come. Needed in training where drop path is not 0, of no effect in evaluation.
    """

    width: int
    strides: tuple[int, ...]
    num_prefix_tokens: int
    told_windows: tuple[int, ...] | None = None
    blocks: Callable[[], list[nn.Module]]

    def __init__(self) -> None:
        super().__init__()
        self.call_block: CallBlock = call_plainly

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Compute the tokens of normalised images, normed: prefix tokens, then the map row by row.

        (B, 3, H, W) -> (B, P + h*w, width).
        """
        raise NotImplementedError

    def forward_maps(self, images: Tensor, keys: Tensor | None = None) -> list[Tensor]:
        """Compute one map for each of `strides`, before any final norm.

        Normalised images (B, 3, H, W) -> (B, C_i, h_i, w_i) each.
        """
        raise NotImplementedError

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Size (h, w) of the token map of an image of that many pixels."""
        raise NotImplementedError

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter (fp32 on the CPU, whole) in place by the published rule, from `generator` alone.

        Raises LookupError where there is no rule. See `fd_scale.models.init`, which rounds to the parameter's type.
        """
        raise NotImplementedError

    def depth_of(self, name: str) -> int | None:
        """Depth of a parameter outside of blocks for layer decay, counted in blocks; None for most.

        A model names it where the order of its parts does not tell it. See `fd_scale.models.depth`.
        """
        return None

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and one-dimensional ones."""
        raise NotImplementedError


class CastConv2d(nn.Conv2d):
    """Convolution that takes an input of any float type; images arrive in fp32 while the weights may be bf16."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


class PatchEmbedding(nn.Module):
    """Embedding of patches: images (B, 3, H, W) -> tokens (B, h, w, C), optionally normalised.

    Pads at the bottom and the right.
    """

    def __init__(self, patch_size: int, width: int, *, norm: bool):
        super().__init__()
        self.patch_size = patch_size
        self.proj = CastConv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = nn.functional.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, h, w, C)


def unset(*shape: int) -> nn.Parameter:
    """Make a parameter full of NaN, so that one which nobody initialised shows in the first loss."""
    return nn.Parameter(torch.full(shape, float("nan")))
