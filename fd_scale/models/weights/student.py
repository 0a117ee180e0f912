"""The student that a file of a published format is, by its tensors' names and shapes."""

from fd_scale.errors import BadInput
from fd_scale.models.config import StudentConfig
from fd_scale.models.families import published_families
from fd_scale.models.weights.formats import UNKNOWN, bare_names
from fd_scale.models.weights.reading import WeightsFile
from fd_scale.models.weights.recognition import architecture, recognise


def student_of(file: WeightsFile) -> tuple[StudentConfig, int | None]:
    """Tell which student a file is, and the size of the images it was trained with, where the file says it.

    Raises:
        BadInput: no student is of that architecture or size.
    """
    bare = bare_names(file.tensors)
    found = architecture(bare.values())
    known = {weights.architecture: weights for _, weights in published_families()}
    if found == UNKNOWN:
        raise BadInput(f"their names are those of no {' or '.join(known)} that is known here")
    weights = known.get(found) or next(iter(known.values()))  # any refuses what is foreign, with advice
    recognised = recognise(file.tensors, weights)
    tensors = {new: file.tensors[name] for new, name in recognised.named.items()}
    return weights.student(file, tensors, {short: file.tensors[name] for name, short in bare.items()})
