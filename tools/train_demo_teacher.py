"""Train the demo's teacher, fd_scale/demo/teacher.safetensors: a small ViT, contrastively, on a few real photographs.

The recipe joins MoCo v2 (arXiv 2003.04297: momentum key encoder, memory bank) on the mean of the patch tokens with the
same loss on single patches: a patch of one view against the patch of the other view that shows the same place, as in
PixPro (arXiv 2011.10043). The second term makes single tokens worth distilling. Transforms, heads and losses are
lightly's. Held-out photographs are only measured on. Leaves out labels, multi-crop and several processes.

    python tools/train_demo_teacher.py --out fd_scale/demo/teacher.safetensors
    python tools/train_demo_teacher.py --images ~/photographs --steps 500 --out my_teacher.safetensors
"""

import argparse
import copy
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightly
import numpy as np
import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, nearest_neighbors, update_momentum
from lightly.transforms.random_crop_and_flip_with_grid import (
    RandomHorizontalFlipWithLocation,
    RandomResizedCropWithLocation,
)
from lightly.transforms.vicregl_transform import VICRegLViewTransform
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from fd_scale.demo.photos import photographs, write_crops
from fd_scale.errors import BadInput

MODEL = "vit_tiny_patch16_224"
MODEL_KWARGS: dict[str, Any] = {
    "img_size": 96,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 0,
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,  # the final norm on every token, before the mean
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRID = 6  # tokens a side
HEAD_WIDTH = 128
BANK = 4096
TEMPERATURE = 0.2
MOMENTUM = 0.99
MATCHES = 12  # of 36 patches: those whose positions in the two views lie nearest to each other
CROPS = 2000

warnings.filterwarnings("ignore", message="The function `get_image_size")  # lightly calls torchvision's old name


class TwoViews(Dataset):
    """Two augmented views of each crop, and where in the crop the centre of each patch lies."""

    def __init__(self, files: list[Path], grid: int = GRID, patch_size: int = 16, blur: float = 0.5):
        """`blur`: share of the views that are blurred, which leaves little of very small images."""
        self.images = [Image.open(file).convert("RGB") for file in files]
        self.grid = grid
        self.crop = RandomResizedCropWithLocation(grid * patch_size, scale=(0.2, 1.0))
        self.flip = RandomHorizontalFlipWithLocation(0.5)
        self.colours = VICRegLViewTransform(
            gaussian_blur_prob=blur, cj_prob=0.8, normalize={"mean": list(MEAN), "std": list(STD)}
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *self.view(self.images[index]), *self.view(self.images[index])

    def view(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        view, at = self.flip(*self.crop(image))
        centres = (torch.arange(self.grid) + 0.5) / self.grid  # lightly's own grid is stretched by grid / (grid - 1)
        x, y = at.left + centres * at.width, at.top + centres * at.height
        if at.horizontal_flip:
            x = x.flip(0)
        positions = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)  # (grid^2, 2), row by row
        return self.colours(view), positions


class Encoder(nn.Module):
    """A timm ViT, with one head for the mean of its patch tokens and one for each of them."""

    def __init__(self, model_kwargs: dict[str, Any] = MODEL_KWARGS) -> None:
        super().__init__()
        self.vit = timm.create_model(MODEL, **model_kwargs)
        width = model_kwargs["embed_dim"]
        self.image_head = MoCoProjectionHead(width, 512, HEAD_WIDTH)
        self.patch_head = MoCoProjectionHead(width, 512, HEAD_WIDTH)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]  # (B, 36, 128) in the demo
        patches = self.patch_head(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return self.image_head(tokens.mean(1)), patches


def contrast(
    query: Encoder, key: Encoder, views: list[Tensor], image_loss: nn.Module, patch_loss: nn.Module, matches: int
) -> tuple[Tensor, Tensor]:
    """Compute the losses of images and of patches; `views` is a batch of `TwoViews`."""
    images, positions, key_images, key_positions = views
    image, patches = query(images)
    with torch.no_grad():
        key_image, key_patches = key(key_images)
    patches, key_patches = nearest_neighbors(patches, key_patches, torch.cdist(positions, key_positions), matches)
    return image_loss(image, key_image), patch_loss(patches.flatten(0, 1), key_patches.flatten(0, 1))


def train(files: list[Path], steps: int, batch: int, learning_rate: float, seed: int, workers: int) -> nn.Module:
    """Train for `steps` steps and return the momentum encoder's ViT.

    The same arguments give the same weights.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # lightly's blur draws from numpy; workers seed theirs from torch's
    query = Encoder()
    key = copy.deepcopy(query)
    deactivate_requires_grad(key)
    image_loss = NTXentLoss(TEMPERATURE, memory_bank_size=(BANK, HEAD_WIDTH))
    patch_loss = NTXentLoss(TEMPERATURE, memory_bank_size=(BANK, HEAD_WIDTH))
    optimizer = torch.optim.AdamW(query.parameters(), lr=learning_rate, weight_decay=0.05)
    data = TwoViews(files)
    order = torch.Generator().manual_seed(seed)
    batch = min(batch, len(data))
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, generator=order)
    started, step = time.monotonic(), 0
    while step < steps:
        for views in loader:
            warm = min(1.0, (step + 1) / (0.1 * steps))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            update_momentum(query, key, MOMENTUM)
            of_images, of_patches = contrast(query, key, views, image_loss, patch_loss, MATCHES)
            optimizer.zero_grad()
            (0.5 * of_images + 0.5 * of_patches).backward()
            nn.utils.clip_grad_norm_(query.parameters(), 3.0)
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == steps:
                rate = step / (time.monotonic() - started)
                left = (steps - step) / rate
                print(
                    f"step {step}/{steps}  loss image {of_images:.3f} patch {of_patches:.3f}  {left:.0f} s left",
                    flush=True,
                )
            if step == steps:
                break
    return key.vit.eval()


@torch.no_grad()
def retrieval(vit: Any, files: list[Path]) -> float:
    """Compute the share of grey crops whose nearest coloured crop, of all the others, is from the same photograph."""

    def features(mode: str) -> Tensor:
        crops = [Image.open(file).convert(mode).convert("RGB").resize((96, 96)) for file in files]
        pixels = (np.stack([np.asarray(crop, np.float32) for crop in crops]) / 255 - MEAN) / STD
        return normalize(vit.forward_features(torch.tensor(pixels).float().permute(0, 3, 1, 2)).mean(1), dim=1)

    nearest = (features("L") @ features("RGB").T).fill_diagonal_(-1).argmax(1).tolist()
    return sum(files[i].parent == files[j].parent for i, j in enumerate(nearest)) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of photographs instead of those of installed packages")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that augment; part of what the seed fixes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        crops = Path(folder) / "crops"
        try:
            found = photographs(options.images)
            write_crops(found, crops, count=CROPS)
        except BadInput as error:
            parser.error(str(error))
        training, held_out = (sorted((crops / split).rglob("*.jpg")) for split in ("train", "heldout"))
        torch.manual_seed(options.seed)
        untrained = Encoder().vit.eval()
        vit = train(training, options.steps, options.batch, options.learning_rate, options.seed, options.workers)
        measured = {"trained": retrieval(vit, held_out), "untrained": retrieval(untrained, held_out)}
    print(f"grey crops that find their photograph: {measured}")
    recipe = {key: getattr(options, key) for key in ("steps", "batch", "learning_rate", "seed", "workers", "threads")}
    facts = {
        "description": "small ViT trained contrastively on image and patches, with few photographs: for the demo only",
        "timm_model": MODEL,
        "timm_kwargs": MODEL_KWARGS,
        "mean": MEAN,
        "std": STD,
        "licence": "Apache-2.0" if options.images is None else "that of the photographs",
        "photographs": [photograph.name for photograph in found if not photograph.held_out],
        "photographs_from": "scikit-image, scikit-learn, matplotlib" if options.images is None else "a user's folder",
        "recipe": recipe
        | {"script": "tools/train_demo_teacher.py", "crops": len(training), "lightly": lightly.__version__},
        "measured": measured,
    }
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in vit.state_dict().items()}
    save_file(half, options.out, metadata={"fd_scale_teacher": json.dumps(facts)})
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
