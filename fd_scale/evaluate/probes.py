"""The work of `fd-scale knn` and `fd-scale linear`: the worth of the frozen features of an export or a teacher.

Features of both data sets -> kNN or linear classifiers -> FOLDER/knn.json or FOLDER/linear.json
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fd_scale.data.evaluation import both_data
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.evaluate.features import Features, extract, open_model
from fd_scale.evaluate.knn import check_knn, knn_accuracy
from fd_scale.evaluate.linear import linear_accuracy
from fd_scale.files import check_target, write_whole
from fd_scale.parallel.ranks import Ranks, raise_on_all_ranks, say
from fd_scale.progress import Progress
from fd_scale.redaction import redacted


def knn(config: ProbeJobConfig, ranks: Ranks, progress: Progress) -> dict[str, Any]:
    """Measure the kNN accuracy for each k. Collective.

    Returns:
        The content of knn.json.

    Raises:
        BadInput: see `open_model`, `EvaluationData`, `check_knn`, `extract`.
    """

    def measure(train: Features, validation: Features) -> dict:
        return knn_accuracy(train, validation, config.knn, ranks)

    check = partial(check_knn, config=config.knn, section="probe")
    return _probe(config, "knn", "k", check, measure, ranks, progress)


def linear(config: ProbeJobConfig, ranks: Ranks, progress: Progress) -> dict[str, Any]:
    """Measure the accuracy of a linear classifier for each base rate. Collective.

    Returns:
        The content of linear.json.

    Raises:
        BadInput: see `open_model`, `EvaluationData`, `extract`, `linear_accuracy`.
    """

    def measure(train: Features, validation: Features) -> dict:
        return linear_accuracy(train, validation, config.linear, ranks, progress)

    return _probe(config, "linear", "base_lr", lambda images: None, measure, ranks, progress)


def _probe(
    config: ProbeJobConfig,
    name: str,
    key: str,
    check: Callable[[int], None],
    measure: Callable[[Features, Features], dict],
    ranks: Ranks,
    progress: Progress,
) -> dict[str, Any]:
    target = Path(config.folder) / f"{name}.json"
    with raise_on_all_ranks():
        if ranks.is_first:
            check_target(target, "folder")
        probe = config.probe
        frozen = open_model(probe, ranks.device)
        data = both_data(probe.train, probe.validation, probe.image_size, probe.view, probe.workers)
        check(data[0].samples)
        for line in data[1].lines:
            say(ranks, line)
        train, validation = (extract(frozen, part, probe.batch, probe.pool, ranks, progress) for part in data)
    with raise_on_all_ranks():
        accuracy = measure(train, validation)
    result = {
        "model": frozen.description,
        "data": {part.source: part.reader.fingerprint() for part in data},
        "images": {part.source: part.samples for part in data},
        "accuracy": [{key: value, "accuracy": share} for value, share in accuracy.items()],
        "best": max(accuracy.values()),
    }
    if ranks.is_first:
        write_whole(target, json.dumps(redacted(result), indent=1) + "\n")
    return result
