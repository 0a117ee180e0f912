"""The record of a family's published weights: by which names a file is known as one of its own, and how they fit.

Reading, wrappers, reports and refusals are the same for all (`reading`, `formats`, `fitting`); this is what differs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.weights.formats import FileNames
from fd_scale.models.weights.parts import Parts, Windows
from fd_scale.models.weights.reading import WeightsFile


@dataclass(frozen=True)
class TimmTwin:
    """Class of timm's whose models a student computes the same as.

    That holds where their blocks and the eps of their norms are these. `called`: in an error line.
    """

    called: str
    model: type
    block: type
    norm_eps: float


@dataclass(frozen=True)
class WindowRules:
    """Rules of a family whose position bias means something else in another window than it was trained in."""

    of_export: Callable[[Mapping[str, Any]], Windows]
    """The windows that an exported student was trained in, by what it says of its origin."""
    of_tensors: Callable[[Mapping[str, Tensor]], Windows | None]
    """The same of a published file, by its buffers; None where it has none. Raises BadInput: they contradict."""
    check: Callable[[Any, Windows | None, int | None], None]
    """(model, windows of the file, side of its images). Raises BadInput unless it is certain which windows scale the
    position bias; a side is given where nobody will tell the model the windows of the file."""
    tell: Callable[[Any, Windows], None]
    """Have the model scale its position bias as in these windows."""


class PublishedWeights(ABC):
    """Interface to the published weights of a family that published formats are fitted to.

    It keeps no state.
    """

    architecture: str
    """As error lines call it."""
    mark: str
    """Pattern of a name, without prefixes, that only files of this architecture have."""
    cosine_attention: bool = False
    """Keys are normalised after their bias, so that one which is not 0 cannot be dropped."""
    twins: tuple[TimmTwin, ...] = ()
    windows: WindowRules | None = None

    @abstractmethod
    def format(self, names: FileNames) -> str:
        """Name the format, for the report. Nothing depends on it."""

    @abstractmethod
    def renaming(self, names: Iterable[str]) -> Callable[[str], str]:
        """Map a file's name without prefixes to ours, for a file with these names."""

    @abstractmethod
    def arrange(self, parts: Parts, model: Any) -> None:
        """Copy, split or resize what has our names already, in place, so that it fits the model."""

    @abstractmethod
    def student(
        self, file: WeightsFile, tensors: Mapping[str, Tensor], bare: Mapping[str, Tensor]
    ) -> tuple[StudentConfig, int | None]:
        """Tell which student a file is, and the size of the images it was trained with, where the file says it.

        Args:
            tensors: by our names.
            bare: by the file's names without prefixes, buffers included.

        Raises:
            BadInput: no student is of that size.
        """

    def facts_of_twin(self, model: Any) -> dict[str, Any]:
        """Facts of `WeightsFile` that a model of timm's knows beside its tensors."""
        return {}


def patches(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Read channels, and pixels of a patch's side, from the tensors of a file. Raises BadInput."""
    weight = tensors.get("patch_embed.proj.weight")
    if weight is None or weight.dim() != 4:
        raise BadInput("the file has no patch_embed.proj.weight, which says the sizes of the student")
    return weight.shape[0], weight.shape[-1]
