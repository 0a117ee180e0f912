"""`knn`: frozen features measured by their neighbours. Its way to print serves `linear` as well."""

from typing import Any

from fd_scale.exits import is_first_rank
from fd_scale.verbs.job import Job, run_probe
from fd_scale.verbs.verb import Config, Overrides, verb

JOB = Job(config="fd_scale.evaluate.config:ProbeJobConfig", run="fd_scale.evaluate.probes:knn")


def print_accuracies(result: dict[str, Any], **given: Any) -> None:
    if is_first_rank():
        print(f"{result['model']}:")
        for entry in result["accuracy"]:
            (key, value), (_, accuracy) = entry.items()
            print(f"  {key} {value:<8g} accuracy {accuracy:.2%}")


@verb(
    "fd-scale knn configs/linear/clip_vit_b16.yaml probe.model=student.safetensors\n"
    "  fd-scale launch --nproc 8 -- knn CONFIG probe.model=timm:vit_base_patch16_224.dino",
    show=print_accuracies,
    job=JOB,
)
def knn(config: Config, overrides: Overrides = ()) -> dict[str, Any]:
    """Measure the k-nearest-neighbour accuracy of frozen features, for several k.

    Runs as one rank of the process group that the environment describes.

    Returns:
        Model, data, and the accuracy of each k; also written to `folder`/knn.json.
    """
    return run_probe(JOB, config, overrides)
