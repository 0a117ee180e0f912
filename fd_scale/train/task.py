"""Interface of a task to the training loop: the loss of a micro-batch, and what surrounds a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from fd_scale.data.loader import Batch
from fd_scale.parallel.engine import Engine


class Task(ABC):
    """Interface of a task, which says what a batch means."""

    @abstractmethod
    def loss_per_image(self, engine: Engine, batch: Batch) -> Tensor:
        """Compute the loss (B,) fp32, with a gradient, of a micro-batch on the device.

        Whatever is random about a sample comes from its key or its position, and nothing from torch's generators, whose
        state depends on the rank and is not kept.
        """

    def evaluate(
        self, engine: Engine, average: Callable[[nn.Module], None] | None, alive: Callable[[], None]
    ) -> dict[str, float]:
        """Measure the model as it is now, for the log and for keeping the best checkpoint. Collective.

        Args:
            average: see `train.loop.Run`.
            alive: to be called every so often; a watchdog waits for it.
        """
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the task learns beside the weights, whole and alike on every rank.

        They are saved, and resuming writes to them in place.

        A name has no slash.
        """
        return {}

    def prepare(self, images: Callable[[int], Iterator[Tensor]]) -> None:  # noqa: B027  most tasks have nothing to do
        """Prepare for the first step of this start. Collective.

        Args:
            images: n -> this rank's micro-batches of the next n steps, on the device, without training on them.
        """

    def after_step(self) -> None:  # noqa: B027
        """Do what follows each optimizer step. Collective."""

    def values(self) -> dict[str, float]:
        """Return more numbers of the last step to log. Collective."""
        return {}
