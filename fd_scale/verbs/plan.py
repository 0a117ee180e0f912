"""`plan`: what a training job will need, before it runs."""

from collections.abc import Sequence
from typing import Annotated

from fd_scale.errors import BadInput
from fd_scale.fields import Count
from fd_scale.launch.slurm import GIB, Needs
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


def needs(command: Sequence[str], world: int) -> Needs:
    """What one of `world` ranks of a command such as `distill CONFIG key=value` needs, for a batch script.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights; or there is no plan for the verb.
    """
    verb, config, overrides = command[0], command[1:2], command[2:]
    job = jobs().get(verb)
    if job is None or job.memory is None:
        planned = " and ".join(name for name, job in jobs().items() if job.memory)
        raise BadInput(
            f"there is no plan for `{verb}`, only for {planned}: write a script after docker/slurm/train.sbatch"
        )
    if not config:
        raise BadInput(f"{verb} needs a CONFIG, for example: -- {verb} configs/demo/swin_v2.yaml")

    from fd_scale.config import load_config, shipped

    loaded = load_config(job.config_type(), config[0], overrides)

    from fd_scale.parallel.deepspeed_config import read_json

    memory = named(job.memory)(loaded, world, read_json(shipped(loaded.parallel.deepspeed)))
    return Needs(
        gpu=memory.peak / GIB,
        beside_gpu=memory.peak_beside_gpu / GIB,
        cpu=memory.peak_on_cpu / GIB,
        saved=memory.saved / GIB,
        workers=loaded.data.workers,
        run_folder=str(loaded.run.folder),
    )


def _job_of(sections: set[str]) -> Job:
    """The job that a file is for: the one whose configuration knows most of its sections, else the first."""
    planned = [job for job in jobs().values() if job.plan]
    return max(planned, key=lambda job: len(sections & job.config_type().__dataclass_fields__.keys()))
