"""The plan of a fine-tuning: its classifier."""

from functools import partial
from typing import Any

import torch

from fd_scale.memory import RankMemory
from fd_scale.models.classifier import Classifier
from fd_scale.models.config import StudentConfig
from fd_scale.models.zoo import build_student
from fd_scale.parallel.engine import stage
from fd_scale.tasks.config import FinetuneJobConfig
from fd_scale.tasks.finetuning import check_recipe, norm_of
from fd_scale.tasks.job_memory import job_memory, undropped
from fd_scale.tasks.job_plan import parameters_beside, plan_text

USUAL_CLASSES = 1000
"""ImageNet-1K's, where neither the configuration nor the data say how many."""


def plan_finetuning(config: FinetuneJobConfig, world: int, sharding: dict[str, Any]) -> str:
    """Write parameters by part, multiply-adds, memory of a rank, and how `world` ranks cut a global batch.

    The classifier is for `finetune.classes`, or else for ImageNet-1K's.

    Args:
        sharding: content of the DeepSpeed JSON.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights.
    """
    model = _classifier(config, config.student)
    memory = finetuning_memory(config, world, sharding)
    others = {f"norm and head of {model.head.out_features}": parameters_beside(model)}
    return plan_text(config, config.student, model, world, stage(sharding), ("classifier", others), memory)


def finetuning_memory(config: FinetuneJobConfig, world: int, sharding: dict[str, Any]) -> RankMemory:
    """Compute the memory of a rank; arguments and errors as in `plan_finetuning`."""
    build = partial(_classifier, config, undropped(config.student))
    return job_memory(config, sharding, world, build, config.finetune.layer_decay)


def _classifier(config: FinetuneJobConfig, student: StudentConfig) -> Classifier:
    """On the meta device."""
    check_recipe(config)
    classes = config.finetune.classes or USUAL_CLASSES
    with torch.device("meta"):
        return Classifier(build_student(student, config.data.view.image_size), classes, norm_of(config))
