"""Images, shards, a teacher and the arguments of a tiny distillation run, made from nothing, for tools that need one.

Nothing in it means anything: the images are noise, the teacher is random.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from fd_scale import api

REPOSITORY = Path(__file__).resolve().parents[1]


def tiny_run(folder: Path, steps: int) -> list[str]:
    """Write the data and return `fd-scale`'s arguments, but for `run.folder` and `train.micro_batch`.

    ZeRO-3, drop path, moving average, a save after every step.
    """
    write_images(folder / "images")
    api.pack(folder / "images", folder / "shards", shard_samples=20, workers=1)
    write_teacher(folder / "teacher.safetensors")
    return [
        "distill",
        str(REPOSITORY / "configs/demo/swin_v2.yaml"),
        f"data.train={folder / 'shards'}",
        "data.view.image_size=32",
        f"teacher.spec=file:{folder / 'teacher.safetensors'}",
        "student.drop_path=0.2",
        "train.global_batch=12",  # divides evenly by one, two and three ranks
        "train.ema_decay=0.9",
        f"schedule.steps={steps}",
        "schedule.warmup_steps=2",
        "run.save_every=1",
        "run.keep.last=3",
        "run.log_every=1",
        "run.tensorboard=false",
    ]


def write_images(folder: Path, count: int = 48) -> None:
    dice = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % 2}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = dice.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(path, quality=90)


def write_teacher(path: Path) -> None:
    kwargs = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **kwargs)
    facts = {
        "timm_model": "vit_tiny_patch16_224",
        "timm_kwargs": kwargs,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "licence": "none",
    }
    save_file(model.state_dict(), path, metadata={"fd_scale_teacher": json.dumps(facts)})
