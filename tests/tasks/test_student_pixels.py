"""The released code normalises every student's images by ImageNet's statistics, and only the teacher's by its own."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.helpers import REPOSITORY

from fd_scale.config import load_config
from fd_scale.data.loader import Batch
from fd_scale.data.view import normalise
from fd_scale.parallel.ranks import Ranks
from fd_scale.pixels import PIXELS
from fd_scale.tasks.config import DistillConfig
from fd_scale.tasks.distillation import parts_of

ALONE = Ranks(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def clip_teacher(tmp_path) -> str:
    """A tiny teacher that wants CLIP's statistics."""
    kwargs = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    mean, std = PIXELS["clip"]
    facts = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": kwargs, "mean": mean, "std": std}
    path = tmp_path / "teacher.safetensors"
    model = timm.create_model("vit_tiny_patch16_224", **kwargs)
    save_file(model.state_dict(), path, metadata={"fd_scale_teacher": json.dumps(facts)})
    return f"teacher.spec=file:{path}"


@pytest.mark.parametrize(("key", "seen"), [("imagenet", "imagenet"), ("teacher", "clip"), (None, "imagenet")])
def test_the_student_sees_the_statistics_that_its_export_names(clip_teacher, key, seen):
    changed = [
        clip_teacher,
        "teacher.sharded=false",
        "parallel.precision=fp32",
        "data.view.image_size=32",
        *([f"student_pixels={key}"] if key else []),
    ]
    path = REPOSITORY / ("configs/demo/swin_v2.yaml" if key else "configs/distill/dino_vit_b16.yaml")
    config = load_config(DistillConfig, path, [*changed, *([] if key else ["student.name=vit_tiny"])])
    parts = parts_of(config, ALONE)
    given: list[torch.Tensor] = []

    def engine(view: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor]:
        given.append(view)
        return (torch.zeros(2, parts.make_task().lessons["teacher"].tokens(images, torch.float32).shape[1], 16),)

    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(images, ["a", "b"], [0, 1], 0, keys=torch.tensor([1, 2]))
    parts.make_task().loss_per_image(engine, batch)
    torch.testing.assert_close(given[0].float(), normalise(images, *PIXELS[seen]))
    assert parts.notes["pixels"] == dict(zip(("mean", "std"), PIXELS[seen], strict=True))
