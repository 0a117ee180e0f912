"""Packing: images of any source into shards, at shuffled positions, the same bytes every time.

Each image is decoded once, so that a damaged one is named here and not in the middle of a run. Its original bytes are
kept, unless it is to be shrunk. Shards are independent of each other: several processes write them, and what was
finished before a kill is checked and kept. In memory are the names of the images, never the images.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial as bind
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL

from fd_scale import __version__
from fd_scale.data.packing import SHARD_SAMPLES
from fd_scale.data.packing.partial import partial_folder, storage_errors
from fd_scale.data.packing.shard_writer import FinishedShard, ShardTask, write_shard
from fd_scale.data.packing.sources import Listing, check_source, list_source
from fd_scale.data.packing.workers import in_workers
from fd_scale.data.shards import ClassCount, Manifest, read_manifest
from fd_scale.errors import BadInput
from fd_scale.files import PARTIAL, write_whole
from fd_scale.progress import Progress, silent

Result = TypeVar("Result")

RULES = 2
"""Changes whenever the same source would give other shards; what an earlier version began is begun again then."""


def pack(
    source: Path,
    out: Path,
    *,
    shard_samples: int = SHARD_SAMPLES,
    seed: int = 0,
    workers: int = 1,
    short_side: int | None = None,
    skip_bad: bool = False,
    only: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Write the images of `source` into webdataset shards in `out`.

    The shards appear in `out` all at once, when they are complete; until then they wait in a hidden folder beside it,
    from which the same command resumes. A class-sorted tar would defeat shuffling by groups of shards, so images are
    placed at random.

    Args:
        source: see `fd_scale.data.packing.sources`.
        shard_samples: images in a shard.
        seed: of the placement.
        workers: processes; their number changes nothing in the result.
        short_side: pixels; larger images are shrunk to it, see `image_bytes.shrink`.
        skip_bad: leave out images that do not decode, and list them in `skipped.txt`.
        only: take one of the first folders alone, such as `train` beside `val`.
        force: take folders called as splits are, `train` and `val`, for classes.
        progress: wraps the iteration, to show it.

    Raises:
        BadInput: no images, an image that does not decode, labels that name no class, splits in place of classes, or
            `out` holds something else.
        Retry: storage failed, or a worker was killed.
    """
    check_positive(shard_samples=shard_samples, workers=workers, short_side=short_side)
    if seed < 0:
        raise BadInput(f"--seed is {seed}; give a number from 0 on")
    with storage_errors(source):
        check_source(source)
    source, out = Path(os.path.abspath(source)), Path(os.path.realpath(out))
    with storage_errors(out):
        if out.is_symlink():
            raise BadInput(f"{out} is a link to itself; give a new folder")
        # The shards come by renaming their folder, for which a file system has no room in itself.
        if os.path.ismount(out):
            raise BadInput(f"{out} is where a file system begins; give a new folder in it, such as {out / 'shards'}")
        aside = out.with_name(f".{out.name}{PARTIAL}")
        taken = _taken(out)
        # A command that was killed between putting its shards in place and tidying up leaves a folder without shards.
        tidying = aside.exists() and not (aside / "shards").exists()
    if taken and not tidying:
        raise _not_free(out, source)
    with partial_folder(aside) as partial:
        listing = list_source(source, partial.spool, only=only, force=force)
        for note in listing.notes:
            print(note, file=sys.stderr)
        facts = _facts(listing, source, seed, shard_samples, short_side, only)
        plan = {**facts, "stamp": listing.stamp(), "rules": RULES}
        if _taken(out):  # perhaps by the same command, which had the lease before
            manifest = read_manifest(out)
            if partial.plan() not in (None, plan) or any(getattr(manifest, name) != facts[name] for name in facts):
                raise _not_free(out, source)
            return manifest
        partial.claim(plan, {item.file for item in listing.items})
        write = bind(write_shard, partial.shards, partial.done, short_side, skip_bad)
        tasks = _tasks(listing, shard_samples, seed)
        shards = -(-len(listing.items) // shard_samples)
        finished: list[FinishedShard] = []
        events = keep_results(in_workers(write, tasks, min(workers, shards)), finished)
        for _ in progress(events, len(listing.items), "packing"):
            pass
        _finish(partial.shards, finished, listing, facts)
        if out.exists():
            out.rmdir()  # empty, as checked
        partial.shards.rename(out)
    return say_skipped(out, read_manifest(out))


def check_positive(**given: int | None) -> None:
    """Refuse a number below 1, by the name of its option."""
    for name, value in given.items():
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} is {value}; give a number above 0")


def keep_results(events: Iterable[Result | None], results: list[Result]) -> Iterator[None]:
    """Yield the ticks of a task, one for each sample; everything else goes to `results`."""
    for event in events:
        if event is None:
            yield None
        else:
            results.append(event)


def _taken(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _not_free(out: Path, source: Path) -> BadInput:
    if out == source:
        return BadInput(f"{out} is the source itself; webdataset shards are described in place by `fd-scale index`")
    return BadInput(f"{out} exists already and is not empty; give a new folder, or remove it first")


def _facts(
    listing: Listing, source: Path, seed: int, shard_samples: int, short_side: int | None, only: str | None
) -> dict[str, Any]:
    """All that the bytes of the result depend on, but for those of the images."""
    images = {"images": len(listing.items), "sha256": listing.fingerprint()}
    return {
        "seed": seed,
        "source": {"kind": listing.kind, "name": source.name, **images},
        "options": {"shard_samples": shard_samples, "short_side": short_side} | ({"only": only} if only else {}),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    return {"fd_scale": __version__, "pillow": PIL.__version__}


def _tasks(listing: Listing, shard_samples: int, seed: int) -> Iterator[ShardTask]:
    order = np.random.default_rng(seed).permutation(len(listing.items))
    for number, first in enumerate(range(0, len(order), shard_samples)):
        items = [listing.items[index] for index in order[first : first + shard_samples]]
        labels = {item.label: listing.labels[item.label] for item in items if item.label is not None}
        yield ShardTask(number, first, items, labels)


def _finish(folder: Path, finished: list[FinishedShard], listing: Listing, facts: dict[str, Any]) -> None:
    """Add the files beside the shards."""
    finished.sort(key=lambda entry: entry.shard.name)
    skipped = write_skipped(folder, finished)
    for entry in finished:
        if not entry.shard.samples:
            (folder / entry.shard.name).unlink()
            (folder / entry.shard.name).with_suffix(".idx").unlink()
    shards = tuple(entry.shard for entry in finished if entry.shard.samples)
    if not shards:
        raise BadInput(f"none of the {skipped} images of {facts['source']['name']} decodes; nothing is packed")
    classes = count_classes(finished, listing.labels)
    write_whole(folder / "manifest.json", Manifest(shards, classes=classes, skipped=skipped, **facts).to_json())


def write_skipped(folder: Path, finished: list[FinishedShard]) -> int:
    """List in a file what was left out, and count it."""
    lines = [f"{origin}\t{reason}\n" for entry in finished for origin, reason in entry.skipped]
    if lines:
        write_whole(folder / "skipped.txt", "".join(lines))
    return len(lines)


def say_skipped(folder: Path, manifest: Manifest) -> Manifest:
    """Say how many images were left out, if any were."""
    if manifest.skipped:
        print(f"left out {manifest.skipped} samples that cannot be used: {folder / 'skipped.txt'}", file=sys.stderr)
    return manifest


def count_classes(finished: list[FinishedShard], labels: dict[str, int]) -> tuple[ClassCount, ...]:
    samples = Counter[str]()
    for entry in finished:
        samples.update(entry.classes)
    return tuple(ClassCount(name, label, samples[name]) for name, label in labels.items())
