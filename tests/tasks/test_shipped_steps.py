"""Every shipped config takes real steps with its own keys, at a reduced size: on two ranks, resumed and exported.

What each is held to stands in `tasks.shipped_runs`, how it is made smaller in `tasks.reduced`.
"""

from pathlib import Path

import pytest
import torch
from support.helpers import REPOSITORY
from support.parts import sweep
from tasks.reduced import reduced_swin
from tasks.shipped_runs import CONFIGS, JOBS, commands, config_of, done, job_of, producers, reads
from torch import nn

from fd_scale.config import load_config
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.models.swin_v2 import SIZES, SwinV2

ONE_PER_TASK = [
    REPOSITORY / "configs" / name
    for name in (
        "distill/swin_v2_giant.yaml",
        "finetune/control_clip_vit_b16.yaml",
        "linear/mae_vit_b16.yaml",
        "miniature/distill.yaml",
    )
]


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("name", SIZES)
def test_a_reduced_size_keeps_every_kind_of_block(name):
    kinds = []
    for size in (SIZES[name], reduced_swin(SIZES[name])):
        with torch.device("meta"):
            model = SwinV2(
                size.embed_dim, size.depths, size.heads, window=size.window, extra_norm_every=size.extra_norm_every
            )
        kinds.append(
            [
                {(b.shifted, isinstance(b.enorm, nn.LayerNorm)) for b in stage.typed_blocks()}
                for stage in model._layers()
            ]
        )
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", sweep(CONFIGS, ONE_PER_TASK), ids=name)
def test_it_takes_three_steps_resumes_exactly_and_exports_as_its_header_says(path):
    assert done(path)


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_what_a_config_goes_on_from_is_exported_by_the_header_of_another(path):
    weights = reads(config_of(path))
    if weights.endswith(".safetensors") and not weights.startswith("file:"):
        assert weights in producers(), f"no header exports {weights}"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_header_exports_the_folder_of_its_own_run(path):
    jobs = [job for command in commands(path) if (job := job_of(command))]
    configs = [load_config(JOBS[job[0]], job[1], job[2:]) for job in jobs]
    folders = {config.run.folder for config in configs if not isinstance(config, ProbeJobConfig)}
    assert {command[1] for command in commands(path) if command[0] == "export"} <= folders
