"""`index`: describe shards that exist already."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fd_scale.fields import Processes
from fd_scale.progress import bar
from fd_scale.verbs.pack import WORKERS, print_summary
from fd_scale.verbs.verb import Argument, Option, verb

if TYPE_CHECKING:
    from fd_scale.data.shards import Manifest


def _show(manifest: "Manifest", folder: str | Path, **given: Any) -> None:
    print_summary(manifest, folder)


@verb("fd-scale index /data/webdataset/cc3m", show=_show)
def index(
    folder: Annotated[str | Path, Argument("folder of .tar files, with one image in each sample")],
    *,
    workers: Annotated[Processes | None, WORKERS] = None,
    skip_bad: Annotated[
        bool, Option("leave bad samples out of the index and list them in FOLDER/skipped.txt; default: refuse")
    ] = False,
) -> "Manifest":
    """Write an index and a manifest beside webdataset shards that exist already.

    The tars stay as they are.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.packing.index import index as index_folder
    from fd_scale.data.packing.workers import default_workers

    count = default_workers() if workers is None else workers
    return index_folder(Path(folder), workers=count, skip_bad=skip_bad, progress=bar("shard"))
