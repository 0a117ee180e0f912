"""What the rows read: a tiny random teacher of every family in a published format, and DeepSpeed's files.

Widths are such that DeepSpeed cuts some of a sharded teacher's tensors: it keeps those below 100,000 numbers whole.
"""

import json
from pathlib import Path

import torch
from matrix.rows import CLASSES, IMAGE_SIZE, TEACHERS
from safetensors.torch import save_file
from support.helpers import REPOSITORY
from teachers.tiny_models import model_of, save_teacher

from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.weights.sealed import STUDENT_KEY
from fd_scale.models.zoo import build_student

VIT = {"img_size": IMAGE_SIZE, "embed_dim": 192, "depth": 2, "num_heads": 3}
SWIN = {"img_size": IMAGE_SIZE, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
FROM_TIMM = {
    "dino": ("vit_small_patch16_224.dino", VIT),
    "clip": ("vit_base_patch16_clip_quickgelu_224.openai", VIT),
    "dinov3": ("vit_small_patch16_dinov3.lvd1689m", VIT),
    "beit": ("beit_base_patch16_224.in22k_ft_in22k_in1k", VIT),
    "swin": ("swin_tiny_patch4_window7_224.ms_in1k", SWIN),
    "timm_swin_v2": ("swinv2_tiny_window8_256.ms_in1k", SWIN),
    "timm_swin_v2_cr": ("swinv2_cr_tiny_224", SWIN),
    "convnext": ("convnext_atto.d2_in1k", {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 160]}),
    "resnet": ("resnet18.a1_in1k", {"channels": [16, 32, 64, 128]}),
}
OWN = {"own_vit": "vit_tiny", "own_swin_v2": "swin_v2_nano"}
PIXELS = {"mean": (0.5, 0.45, 0.4), "std": (0.25, 0.22, 0.24)}
"""Of every teacher, and not those of the students."""


def write(folder: Path) -> None:
    """`NAME.safetensors` of each teacher and `zeroN.json` of each stage."""
    for name, (model, kwargs) in FROM_TIMM.items():
        kwargs = {**kwargs, "num_classes": CLASSES if TEACHERS[name].classifier else 0}
        facts = {"timm_model": model, "timm_kwargs": kwargs, **PIXELS}
        save_teacher(model_of(model, kwargs), folder / f"{name}.safetensors", facts)
    for name, student in OWN.items():
        config = StudentConfig(student, drop_path=0.0)
        model = build_student(config, IMAGE_SIZE)
        initialise_all(model, 0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        origin = {"student": vars(config), "image_size": IMAGE_SIZE, "pixels": PIXELS}
        save_file(model.state_dict(), folder / f"{name}.safetensors", metadata={STUDENT_KEY: json.dumps(origin)})
    for stage in (1, 2, 3):
        sharding = json.loads((REPOSITORY / f"deepspeed_configs/zero{stage}.json").read_text())
        if stage == 3:  # cut every tensor, however small
            sharding["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        (folder / f"zero{stage}.json").write_text(json.dumps(sharding))
