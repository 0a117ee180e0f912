"""`verify`: read a packed data set again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fd_scale.errors import BadInput
from fd_scale.fields import Processes
from fd_scale.progress import bar
from fd_scale.verbs.pack import WORKERS, print_line
from fd_scale.verbs.verb import Argument, verb

if TYPE_CHECKING:
    from fd_scale.data.packing.verify import Damage


def _show(damages: Sequence["Damage"], folder: str | Path, **given: Any) -> None:
    folder = Path(folder)
    for damage in damages:
        print_line(str(damage))
    if damages:
        raise BadInput(f"{folder} is damaged in {len(damages)} places, listed above; copy or pack it again")
    print_line(f"{folder} is whole")


@verb("fd-scale verify shards/imagenet-train", show=_show)
def verify(
    folder: Annotated[str | Path, Argument("folder that `pack` wrote or `index` described", "OUT")],
    *,
    workers: Annotated[Processes | None, WORKERS] = None,
) -> "list[Damage]":
    """Read a packed data set again and name every damaged sample.

    Hashes, index, and every image, which is decoded.

    Returns:
        A list of `fd_scale.data.packing.verify.Damage`, empty where all is whole.
    """
    from fd_scale.data.packing.verify import verify as verify_folder
    from fd_scale.data.packing.workers import default_workers

    count = default_workers() if workers is None else workers
    return verify_folder(Path(folder), workers=count, progress=bar("image"))
