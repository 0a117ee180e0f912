"""Verbs that make and check data."""

import argparse
from pathlib import Path
from typing import Any

from fd_scale import api
from fd_scale.cli.verb import add_verb
from fd_scale.errors import BadInput


def add_pack(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        manifest = api.pack(
            given.source,
            given.out,
            shard_samples=given.shard_samples,
            seed=given.seed,
            workers=given.workers,
            short_side=given.short_side,
            skip_bad=given.skip_bad,
            only=given.only,
            force=given.force,
        )
        _say(_summary(manifest, given.out))

    verb = add_verb(
        verbs,
        "pack",
        run,
        "write images into webdataset shards with an index and a manifest",
        "fd-scale pack imagenet/train shards/imagenet-train\n"
        "  fd-scale pack ILSVRC2012_img_train.tar shards/imagenet-train --short-side 256 --skip-bad\n"
        "  fd-scale pack flowers.csv shards/flowers       # columns path and, perhaps, label; .parquet too\n"
        "  fd-scale pack flowers shards/flowers-train --only train      # of train/, val/ and test/\n\n"
        "A command that was killed goes on from its finished shards when it is given again; the result is the same,\n"
        "byte for byte, and does not depend on --workers. Shards that are there already: fd-scale index.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of images (class folders or flat), tar or zip archive, folder of archives, CSV or Parquet list",
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="new folder for the shards")
    verb.add_argument("--shard-samples", type=int, default=1000, metavar="N", help="images in a shard (default 1000)")
    verb.add_argument("--seed", type=int, default=0, help="of the shuffled placement (default 0)")
    verb.add_argument(
        "--short-side",
        type=int,
        metavar="N",
        help="shrink larger images to N pixels (Lanczos, JPEG quality 95); default: original bytes",
    )
    verb.add_argument("--only", metavar="NAME", help="take one of the first folders alone, such as the split train")
    verb.add_argument("--force", action="store_true", help="take folders called train, val or test for classes")
    _reading_arguments(verb, "leave out images that do not decode and list them in OUT/skipped.txt; default: refuse")


def add_index(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        _say(_summary(api.index(given.folder, workers=given.workers, skip_bad=given.skip_bad), given.folder))

    verb = add_verb(
        verbs,
        "index",
        run,
        "write an index and a manifest beside webdataset shards that are there already",
        "fd-scale index /data/webdataset/cc3m",
    )
    verb.add_argument("folder", metavar="FOLDER", type=Path, help="holds .tar files, one image in each sample")
    _reading_arguments(verb, "leave bad samples out of the index and list them in FOLDER/skipped.txt; default: refuse")


def add_verify(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        damages = api.verify(given.folder, workers=given.workers)
        for damage in damages:
            _say(str(damage))
        if damages:
            raise BadInput(f"{given.folder} is damaged in {len(damages)} places, listed above; copy or pack it again")
        _say(f"{given.folder} is whole")

    verb = add_verb(
        verbs,
        "verify",
        run,
        "read a packed data set again and name every damaged sample",
        "fd-scale verify shards/imagenet-train",
    )
    verb.add_argument("folder", metavar="OUT", type=Path, help="folder that `pack` wrote or `index` described")
    _reading_arguments(verb)


def _say(line: str) -> None:
    print(line.encode(errors="backslashreplace").decode())  # names of files need not be Unicode


def _summary(manifest: Any, folder: Path) -> str:
    skipped = f" ({manifest.skipped} left out: {folder / 'skipped.txt'})" if manifest.skipped else ""
    classes = manifest.describe_classes()
    return f"{manifest.samples} images {classes} in {len(manifest.shards)} shards{skipped}: {folder}"


def _reading_arguments(verb: argparse.ArgumentParser, skip_bad: str | None = None) -> None:
    if skip_bad:
        verb.add_argument("--skip-bad", action="store_true", help=skip_bad)
    verb.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
