"""`finetune`: training of a classifier."""

from pathlib import Path

from fd_scale.verbs.job import Job, run_training
from fd_scale.verbs.verb import Config, Overrides, verb

JOB = Job(
    config="fd_scale.tasks.config:FinetuneJobConfig",
    run="fd_scale.tasks.finetuning:finetune",
    plan="fd_scale.tasks.finetuning_plan:plan_finetuning",
    memory="fd_scale.tasks.finetuning_plan:finetuning_memory",
)


@verb(
    "fd-scale finetune configs/finetune/small.yaml student.weights=runs/demo/student.safetensors\n"
    "  fd-scale launch --nproc 8 -- finetune configs/finetune/clip_vit_b16.yaml student.weights=FILE",
    job=JOB,
)
def finetune(config: Config, overrides: Overrides = ()) -> Path:
    """Fine-tune a student, a teacher or published weights on labelled shards, and validate.

    Runs as one rank of the process group that the environment describes; a world of one without it.

    Returns:
        The run folder.
    """
    return run_training(JOB, config, overrides)
