"""Every shipped config takes real steps with its own keys, at a reduced size: on two ranks, resumed and exported.

What each is held to stands in `tasks.shipped_runs`, how it is made smaller in `tasks.reduced`.
"""

from pathlib import Path

import pytest
from helpers import REPOSITORY
from support.parts import sweep
from tasks.shipped_runs import CONFIGS, JOBS, commands, config_of, done, job_of, producers, reads

from fd_scale.config import load_config
from fd_scale.tasks.probes import ProbeJobConfig

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
