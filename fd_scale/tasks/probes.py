"""`fd-scale knn` and `fd-scale linear`: how good are the frozen features of an export or a teacher? On any ranks.

Features of both data sets -> kNN or linear classifiers -> FOLDER/knn.json or FOLDER/linear.json
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd_scale.data.reader import open_reader
from fd_scale.parallel.ranks import Ranks, together
from fd_scale.tasks.features import Features, ProbeConfig, Progress, extract, open_model
from fd_scale.tasks.knn import KnnConfig, knn_accuracy
from fd_scale.tasks.linear import LinearConfig, linear_accuracy


@dataclass(frozen=True, kw_only=True)
class ProbeJobConfig:
    """What `fd-scale knn` and `fd-scale linear` take."""

    folder: str
    """For the results."""
    probe: ProbeConfig
    knn: KnnConfig = KnnConfig()
    linear: LinearConfig = LinearConfig()
    timeout_minutes: float = 60.0
    """For a rank to wait for another; the slowest may still be computing features."""


def knn(config: ProbeJobConfig, ranks: Ranks, progress: Progress) -> dict[str, Any]:
    """kNN accuracy for each k. Collective.

    Returns:
        What stands in knn.json.

    Raises:
        BadInput: see `open_model`, `extract`, `knn_accuracy`.
    """

    def measure(train: Features, validation: Features) -> dict:
        return knn_accuracy(train, validation, config.knn, ranks)

    return _probe(config, "knn", "k", measure, ranks, progress)


def linear(config: ProbeJobConfig, ranks: Ranks, progress: Progress) -> dict[str, Any]:
    """Accuracy of a linear classifier for each base rate. Collective.

    Returns:
        What stands in linear.json.

    Raises:
        BadInput: see `open_model`, `extract`, `linear_accuracy`.
    """

    def measure(train: Features, validation: Features) -> dict:
        return linear_accuracy(train, validation, config.linear, ranks, progress)

    return _probe(config, "linear", "base_lr", measure, ranks, progress)


def _probe(
    config: ProbeJobConfig,
    name: str,
    key: str,
    measure: Callable[[Features, Features], dict],
    ranks: Ranks,
    progress: Progress,
) -> dict[str, Any]:
    with together():
        frozen = open_model(config.probe.model, config.probe.image_size)
        sets = [extract(frozen, source, config.probe, ranks, progress) for source in _sources(config)]
    with together():
        accuracy = measure(*sets)
    result = {
        "model": frozen.description,
        "data": {source: open_reader(source).fingerprint() for source in _sources(config)},
        "images": {source: features.samples for source, features in zip(_sources(config), sets, strict=True)},
        "accuracy": [{key: value, "accuracy": share} for value, share in accuracy.items()],
        "best": max(accuracy.values()),
    }
    if ranks.is_first:
        folder = Path(config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _sources(config: ProbeJobConfig) -> tuple[str, str]:
    return config.probe.train, config.probe.validation
