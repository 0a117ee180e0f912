"""timm models as students and teachers on two processes. Each check is a function of `timm_program.py`."""

import json
from functools import partial

import timm
import torch
from parallel.running import check
from safetensors.torch import save_file

check = partial(check, "parallel.timm_program")

# Wide enough that some parameters are partitioned (more than 100,000 numbers). The first has CLS and registers.
TEACHERS = {
    "vit_small_patch16_dinov3.lvd1689m": {"img_size": 64, "embed_dim": 192, "depth": 2, "num_heads": 3},
    "swin_tiny_patch4_window7_224.ms_in1k": {
        "img_size": 64,
        "embed_dim": 32,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 2, 2, 2],
    },
}


def test_a_student_of_either_kind_is_built_and_trained_in_shards_with_its_buffers_whole():
    assert check("students") == 0


def test_sharded_teachers_equal_replicas(tmp_path):
    files = []
    for name, kwargs in TEACHERS.items():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, **kwargs)
        stated = {"timm_model": name, "timm_kwargs": {**kwargs, "num_classes": 0}}
        files.append(tmp_path / f"{name}.safetensors")
        save_file(model.state_dict(), files[-1], metadata={"fd_scale_teacher": json.dumps(stated)})
    assert check("teachers", *files) == 0
