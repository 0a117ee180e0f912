"""`distill`: the main job."""

from pathlib import Path

from fd_scale.verbs.job import Job, run_training
from fd_scale.verbs.verb import Config, Overrides, verb

JOB = Job(
    config="fd_scale.tasks.config:DistillConfig",
    run="fd_scale.tasks.distillation:distill",
    plan="fd_scale.tasks.distillation_plan:plan_distillation",
    memory="fd_scale.tasks.distillation_plan:distillation_memory",
)


@verb(
    "fd-scale distill configs/demo/swin_v2.yaml data.train=shards/mine run.folder=runs/mine\n"
    "  fd-scale launch --nproc 8 -- distill configs/distill/clip_vit_b16.yaml data.train=shards/imagenet-train\n\n"
    "The same command resumes a run that was stopped or killed.",
    job=JOB,
)
def distill(config: Config, overrides: Overrides = ()) -> Path:
    """Distill a student from a frozen teacher; this is the main job, one rank of it.

    The rank is that of the process group that the environment describes; a world of one without it.

    Returns:
        The run folder.
    """
    return run_training(JOB, config, overrides)
