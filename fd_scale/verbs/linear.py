"""`linear`: frozen features measured by a linear classifier."""

from typing import Any

from fd_scale.verbs.job import Job, run_probe
from fd_scale.verbs.knn import print_accuracies
from fd_scale.verbs.verb import Config, Overrides, verb

JOB = Job(config="fd_scale.evaluate.config:ProbeJobConfig", run="fd_scale.evaluate.probes:linear")


@verb(
    "fd-scale linear configs/linear/clip_vit_b16.yaml probe.model=student.safetensors\n"
    "  fd-scale launch --nproc 8 -- linear CONFIG probe.model=timm:vit_base_patch16_224.dino",
    show=print_accuracies,
    job=JOB,
)
def linear(config: Config, overrides: Overrides = ()) -> dict[str, Any]:
    """Measure the linear-probe accuracy of frozen features, for several learning rates.

    Runs as one rank of the process group that the environment describes.

    Returns:
        Model, data, and the accuracy of each learning rate; also written to `folder`/linear.json.
    """
    return run_probe(JOB, config, overrides)
