"""`pack`: images into shards. Its summary of a data set serves `index` as well."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fd_scale.data.packing import SHARD_SAMPLES
from fd_scale.fields import Count, Pixels, Processes, Seed
from fd_scale.progress import bar
from fd_scale.verbs.verb import Argument, Option, verb

if TYPE_CHECKING:
    from fd_scale.data.shards import Manifest

WORKERS = Option("processes (default: one for each core)", "N")


def print_line(line: str) -> None:
    """Print a line that may hold names of files, which need not be Unicode."""
    print(line.encode(errors="backslashreplace").decode())


def print_summary(manifest: "Manifest", folder: str | Path) -> None:
    folder = Path(folder)
    skipped = f" ({manifest.skipped} left out: {folder / 'skipped.txt'})" if manifest.skipped else ""
    classes = manifest.describe_classes()
    print_line(f"{manifest.samples} images {classes} in {len(manifest.shards)} shards{skipped}: {folder}")


def _show(manifest: "Manifest", out: str | Path, **given: Any) -> None:
    print_summary(manifest, out)


@verb(
    "fd-scale pack imagenet/train shards/imagenet-train\n"
    "  fd-scale pack ILSVRC2012_img_train.tar shards/imagenet-train --short-side 256 --skip-bad\n"
    "  fd-scale pack flowers.csv shards/flowers       # columns path and, perhaps, label; .parquet too\n"
    "  fd-scale pack flowers shards/flowers-train --only train      # of train/, val/ and test/\n\n"
    "A command that was killed resumes from its finished shards when it is given again; the result is the same,\n"
    "byte for byte, and does not depend on --workers. For shards that exist already, see fd-scale index.",
    show=_show,
)
def pack(
    source: Annotated[
        str | Path,
        Argument(
            "folder of images (class folders or flat), tar or zip archive, folder of archives, CSV or Parquet list"
        ),
    ],
    out: Annotated[str | Path, Argument("new folder for the shards")],
    *,
    shard_samples: Annotated[Count, Option("images in a shard", "N")] = SHARD_SAMPLES,
    seed: Annotated[Seed, Option("seed of the shuffled placement", "N")] = 0,
    workers: Annotated[Processes | None, WORKERS] = None,
    short_side: Annotated[
        Pixels | None,
        Option("shrink larger images to N pixels (Lanczos, JPEG quality 95); default: original bytes", "N"),
    ] = None,
    skip_bad: Annotated[
        bool, Option("leave out images that do not decode and list them in OUT/skipped.txt; default: refuse")
    ] = False,
    only: Annotated[str | None, Option("take one of the first folders alone, such as the split train", "NAME")] = None,
    force: Annotated[bool, Option("take folders called train, val or test for classes")] = False,
) -> "Manifest":
    """Write images into webdataset shards with an index and a manifest.

    See `fd_scale.data.packing.sources` for the sources that it takes.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.packing.pack import pack as pack_source
    from fd_scale.data.packing.workers import default_workers

    return pack_source(
        Path(source),
        Path(out),
        shard_samples=shard_samples,
        seed=seed,
        workers=default_workers() if workers is None else workers,
        short_side=short_side,
        skip_bad=skip_bad,
        only=only,
        force=force,
        progress=bar("image"),
    )
