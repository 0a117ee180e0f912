"""Fine-tuning on a labelled data set, by the recipe of arXiv 2205.14141 (appendix) and its released code.

augmented view -> erase -> mix with a neighbour -> student -> mean of the map tokens -> classifier -> soft cross entropy

The released code validates with CLIP's pixel statistics whatever the model was trained with; here validation uses those
of training, and `finetune.paper_compat` does as the release does.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fd_scale.data.classes import Classes
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.loader import Batch, TrainingData
from fd_scale.data.mixing import Pairs, draw_pairs, erase, mix, soft_cross_entropy, targets
from fd_scale.data.view import normalise
from fd_scale.errors import BadInput
from fd_scale.evaluate.classes import check_begin, rows_by_name
from fd_scale.evaluate.validation import METRICS, validate
from fd_scale.models.classifier import Classifier, Norm
from fd_scale.models.families import family_of
from fd_scale.models.precision import cast
from fd_scale.models.weights.heads import kept_head
from fd_scale.models.zoo import build_student
from fd_scale.parallel.engine import Engine
from fd_scale.parallel.ranks import Ranks
from fd_scale.pixels import PIXELS
from fd_scale.tasks.config import FinetuneJobConfig
from fd_scale.tasks.job import Parts, compute_dtype, initialiser, run_job
from fd_scale.train.optimizer import adamw, parameter_groups
from fd_scale.train.task import Task


class FinetuneTask(Task):
    """Task of fine-tuning: the loss of one micro-batch, and validation."""

    def __init__(
        self,
        config: FinetuneJobConfig,
        build: Callable[[], Classifier],
        classes: int,
        validation: EvaluationData | None,
        ranks: Ranks,
    ):
        self.config, self.build, self.classes = config.finetune, build, classes
        self.validation, self.ranks = validation, ranks
        self.seed, self.dtype = config.train.seed, compute_dtype(config.parallel)
        self.statistics = PIXELS[self.config.pixels]

    def loss_per_image(self, engine: Engine, batch: Batch) -> Tensor:
        images, labels, keys = batch.images, batch.labels, batch.keys
        assert labels is not None
        assert keys is not None
        mixing = self.config.mix
        view = erase(normalise(images, *self.statistics), keys, mixing.erase)  # (B, 3, H, W)
        pairs: Pairs | None = None
        if mixing.in_pairs:
            size = (images.shape[2], images.shape[3])
            pairs = draw_pairs(mixing, self.seed, batch.step, batch.positions, size)
            view = mix(view, pairs)
        target = targets(labels, self.classes, mixing.smoothing, pairs)  # (B, K)
        return soft_cross_entropy(engine(view.to(self.dtype), keys), target)  # (B,)

    def evaluate(
        self, engine: Engine, average: Callable[[nn.Module], None] | None, alive: Callable[[], None]
    ) -> dict[str, float]:
        if self.validation is None:
            return {}
        statistics = PIXELS["clip"] if self.config.paper_compat else self.statistics
        measure = partial(
            validate,
            data=self.validation,
            statistics=statistics,
            batch=self.config.batch,
            ranks=self.ranks,
            dtype=self.dtype,
            alive=alive,
        )
        engine.eval()
        found = measure(engine)
        engine.train()
        if average is not None:
            averaged = self.build().to(self.ranks.device)
            average(averaged)
            of_average = measure(cast(averaged, self.ranks.device, self.dtype).eval())
            found |= {f"ema_{name}": value for name, value in of_average.items()}
        return found


def finetune(config: FinetuneJobConfig, resolved: dict[str, Any], sharding: dict[str, Any], ranks: Ranks) -> Path:
    """Run the job; see `run_job`. Collective."""
    return run_job(config, resolved, sharding, ranks, lambda data: _parts(config, data, ranks), labelled=True)


def check_recipe(config: FinetuneJobConfig) -> None:
    """Refuse, before anything is read, what contradicts itself."""
    recipe = config.finetune
    if recipe.mix.in_pairs and config.train.micro_batch % 2:
        raise BadInput(
            f"train.micro_batch={config.train.micro_batch} is odd, and mixup and cutmix take images in pairs; make it "
            f"even, or set finetune.mix.mixup=0 finetune.mix.cutmix=0"
        )
    if recipe.head_classes is not None and recipe.head == "fresh":
        raise BadInput(f"finetune.head_classes={recipe.head_classes} is of no use without finetune.head=kept")
    if recipe.head == "kept" and (config.student.weights is None or config.student.weights.startswith("timm:")):
        raise BadInput(
            f"finetune.head=kept takes the classifier from a file, and student.weights={config.student.weights}; give "
            f"what `fd-scale export RUN OUT --classifier` wrote, or set finetune.head=fresh"
        )


def _parts(config: FinetuneJobConfig, data: TrainingData, ranks: Ranks) -> Parts:
    check_recipe(config)
    recipe = config.finetune
    assert data.classes is not None
    classes = recipe.classes or data.classes.count
    if data.classes.count > classes:
        raise BadInput(f"finetune.classes={classes}, but the labels of data.train number {data.classes.count}")
    known = replace(data.classes, count=classes)
    validation = _validation(config, known)
    norm = norm_of(config)

    def build() -> Classifier:
        return Classifier(build_student(config.student, config.data.view.image_size), classes, norm)

    mean, std = PIXELS[recipe.pixels]
    fill_model, lines = initialiser(build, config.student, config.data.view.image_size, config.train.seed)
    weights, key = config.student.weights, config.student.weights_key
    head = {}
    if recipe.head == "kept" and weights:
        head = kept_head(weights, classes, norm, recipe.head_classes, rows_by_name(known, weights, lines), key)

    def fill(name: str, parameter: Tensor) -> None:
        if name in head:
            parameter.copy_(head[name])
        else:
            fill_model(name, parameter)

    return Parts(
        build=build,
        fill=fill,
        groups=partial(parameter_groups, weight_decay=config.optim.weight_decay, layer_decay=recipe.layer_decay),
        optimizer=adamw(config.optim),
        make_task=lambda: FinetuneTask(config, build, classes, validation, ranks),
        check_begin=check_begin(known, data.matches),
        metrics=_metrics(config),
        notes={"pixels": {"mean": mean, "std": std}, **known.record(), "norm": norm},
        lines=[
            *lines,
            *data.lines,
            *(validation.lines if validation else ()),
            f"{classes} classes, {_validated(validation)}; norm {norm}, {recipe.head} head, layer decay "
            f"{recipe.layer_decay:g}",
        ],
    )


def norm_of(config: FinetuneJobConfig) -> Norm:
    """Norm that `finetune.norm` comes to for this student."""
    if config.finetune.norm != "auto":
        return config.finetune.norm
    return family_of(config.student.name).final_norm


def _validation(config: FinetuneJobConfig, known: Classes) -> EvaluationData | None:
    recipe = config.finetune
    if recipe.validation is None:
        if config.run.evaluate_every:
            raise BadInput(
                f"run.evaluate_every={config.run.evaluate_every} without finetune.validation; give a folder of shards"
            )
        return None
    return EvaluationData(recipe.validation, config.data.view.image_size, recipe.view, config.data.workers, known)


def _metrics(config: FinetuneJobConfig) -> tuple[str, ...]:
    """What `FinetuneTask.evaluate` gives, where it is asked."""
    if not config.run.evaluate_every:
        return ()
    averaged = tuple(f"ema_{name}" for name in METRICS) if config.train.ema_decay else ()
    return (*METRICS, *averaged)


def _validated(validation: EvaluationData | None) -> str:
    return f"{validation.samples} images to validate on" if validation else "no validation"
