"""kNN of a student's features while it is trained: a trend to watch, and what to keep the best checkpoint by."""

from collections.abc import Callable, Iterable, Iterator

from fd_scale.data.config import DataConfig
from fd_scale.data.evaluation import EvaluationData, both_data
from fd_scale.errors import BadInput
from fd_scale.evaluate.config import KnnConfig, TrainingProbeConfig
from fd_scale.evaluate.features import Frozen, extract
from fd_scale.evaluate.knn import check_knn, knn_accuracy
from fd_scale.parallel.ranks import Ranks, raise_on_all_ranks


class TrainingProbe:
    def __init__(self, config: TrainingProbeConfig, train: EvaluationData, validation: EvaluationData):
        self.config, self.train, self.validation = config, train, validation
        self.knn = KnnConfig((config.k,))
        check_knn(train.samples, self.knn, "probe")

    def measure(self, frozen: Frozen, ranks: Ranks, alive: Callable[[], None]) -> dict[str, float]:
        """Measure the kNN accuracy of the student as it is now. Collective. `alive` is called for each batch."""

        def watched(items: Iterable, total: int, label: str) -> Iterator:
            for item in items:
                alive()
                yield item

        found = []
        for data in (self.train, self.validation):
            with raise_on_all_ranks():
                found.append(extract(frozen, data, self.config.batch, "mean", ranks, watched))
        train, validation = found
        return {"knn": knn_accuracy(train, validation, self.knn, ranks)[self.config.k]}


def training_probe(config: TrainingProbeConfig, every: int | None, data: DataConfig) -> TrainingProbe | None:
    """Build the probe of a run that asks for one.

    Raises:
        BadInput: half of what it needs is given, or its data are missing, damaged or without labels.
    """
    if config.train is None and config.validation is None and not every:
        return None
    if config.train is None or config.validation is None or not every:
        raise BadInput(
            f"probe.train={config.train}, probe.validation={config.validation} and run.evaluate_every={every}: "
            f"give all three for a probe, or none"
        )
    size, workers = data.view.image_size, data.workers
    return TrainingProbe(config, *both_data(config.train, config.validation, size, config.view, workers))
