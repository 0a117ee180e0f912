"""`plan`: what a training job will need, before it runs."""

from typing import Annotated

from fd_scale.fields import Count
from fd_scale.verbs.job import Job, named
from fd_scale.verbs.verb import Config, Option, Overrides, jobs, print_result, verb


@verb("fd-scale plan configs/distill/swin_v2_giant.yaml --world 64", show=print_result)
def plan(
    config: Config, overrides: Overrides = (), *, world: Annotated[Count, Option("ranks to plan for", "N")] = 1
) -> str:
    """Show parameters, multiply-adds, memory and batch arithmetic of a job, without GPU or data.

    Returns:
        The text.
    """
    from fd_scale.config import load_config, sections, shipped

    job = _job_of(sections(config, overrides))
    loaded = load_config(job.config_type(), config, overrides)

    from fd_scale.parallel.deepspeed_config import read_json

    assert job.plan is not None
    return named(job.plan)(loaded, world, read_json(shipped(loaded.parallel.deepspeed)))


def _job_of(sections: set[str]) -> Job:
    """The job that a file is for: the one whose configuration knows most of its sections, else the first."""
    planned = [job for job in jobs().values() if job.plan]
    return max(planned, key=lambda job: len(sections & job.config_type().__dataclass_fields__.keys()))
