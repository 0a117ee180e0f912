"""SwinV2 as a backbone for MMSegmentation and MMDetection: four maps, for images of any size.

Maps are padded to whole windows inside the model and cut again, so a map is ceil(H / stride) x ceil(W / stride).
Left out: freezing stages, and other numbers of maps.
"""

from mmengine.registry import MODELS
from torch import Tensor, nn

from fd_scale.fields import Seed, within_ranges
from fd_scale.models.families.swin_v2 import SWIN_V2
from fd_scale.models.weights.windows import trained_windows
from fd_scale_downstream.backbone import FDBackbone, build
from fd_scale_downstream.weights import export_origin

ANY_IMAGE_SIZE = 1024
"""The model takes all sizes; only its log line shows this one."""


@MODELS.register_module()
class FDSwinV2(FDBackbone):
    """SwinV2 with four maps.

    Images (B, 3, H, W) -> one (B, C_i, ceil(H/s_i), ceil(W/s_i)) for each stride s_i, 4 to 32 with patches of 4 px.

    Every map has a LayerNorm: the last the model's own, with its trained weights, the others new ones.

    Without `weights`, pad images with a value that is not 0 (`pad_val`, `pad_value` of the data preprocessor): a fresh
    patch embedding has no biases, so padding of 0 gives tokens of exactly 0, at which cosine attention and every
    LayerNorm above are so steep that gradients reach 1e12.

    name: of `fd_scale.models.zoo`; patch_size, position_bias, window, extra_norm_every as there.
    pretrained_window: the window of each stage when the weights were trained; an export says it itself, for other
        weights it is required.
    attention, window_chunk: how windows attend, and how many at a time; the same but for the order of sums. See
        `fd_scale.models.config.StudentConfig`. A resumed run may change them.
    """

    @within_ranges
    def __init__(
        self,
        name: str,
        *,
        patch_size: int | None = None,
        position_bias: str | None = None,
        window: int | None = None,
        pretrained_window: tuple[int, int, int, int] | None = None,
        extra_norm_every: int | None = None,
        drop_path: float = 0.2,
        attention: str | None = None,
        window_chunk: int | None = None,
        weights: str | None = None,
        weights_key: str | None = None,
        seed: Seed = 0,
    ):
        super().__init__(weights, seed, weights_key=weights_key)
        origin = export_origin(weights)
        if pretrained_window is None and origin is not None and SWIN_V2.has(origin["student"]["name"]):
            pretrained_window = trained_windows(origin)  # type: ignore[assignment]
        self.pretrained_window = tuple(pretrained_window) if pretrained_window else None
        config = {
            "name": name,
            "patch_size": patch_size,
            "position_bias": position_bias,
            "window": window,
            "pretrained_window": self.pretrained_window,
            "extra_norm_every": extra_norm_every,
            "drop_path": drop_path,
            "attention": attention,
            "window_chunk": window_chunk,
        }
        self.model = build(config, origin, ANY_IMAGE_SIZE)
        self.widths = [self.model.width // 2**stage for stage in reversed(range(len(self.model.strides)))]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths[:-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.model.forward_maps(images, self.keys(images))
        norms = [*self.norms, self.model.norm]
        return [norm(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, tokens in zip(norms, maps, strict=True)]

    def resized(self) -> str:
        if self.pretrained_window is None:
            return "position bias scaled to the window in use, no pretrained_window given"
        return f"position bias keeps the scale of the windows {self.pretrained_window} it was trained with"
