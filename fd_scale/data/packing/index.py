"""Description of webdataset shards in place: an offset index beside each tar, one manifest; no tar is touched.

A sample is what webdataset takes for one, with exactly one image in it. What is hidden belongs to none and is counted.
Shards with pickled members are refused, since other readers of the same folder would run what is in them.
"""

import os
import sys
from collections.abc import Iterator
from functools import partial as bind
from pathlib import Path
from typing import IO

from fd_scale.data.image_bytes import LARGEST, BadImage, check_decodes
from fd_scale.data.item import OddLabel, clean_name
from fd_scale.data.left_out import ELSEWHERE, LeftOut
from fd_scale.data.numbering import class_names, class_numbers
from fd_scale.data.packing.archives import ARCHIVES, file_stamp, read_label
from fd_scale.data.packing.pack import (
    RULES,
    check_positive,
    count_classes,
    keep_results,
    say_skipped,
    versions,
    write_skipped,
)
from fd_scale.data.packing.partial import partial_folder, read_record, storage_errors
from fd_scale.data.packing.shard_writer import FinishedShard
from fd_scale.data.packing.workers import in_workers
from fd_scale.data.shards import IMAGE_EXTENSIONS, Manifest, Member, Shard, read_manifest, write_index
from fd_scale.data.tars import TAR_ERRORS, Sample, group_samples, plain_members, tar_members, webdataset_functions
from fd_scale.errors import BadInput
from fd_scale.files import sha256_of, write_whole
from fd_scale.progress import Progress, silent

PICKLED = ("pickle", "pkl", "pyd", "pth", "pt", "dill", "joblib")


def index(
    folder: Path,
    *,
    workers: int = 1,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Write an index for every tar in `folder`, and the manifest.

    Args:
        workers: processes; their number changes nothing in the result.
        skip_bad: leave samples without a whole image out of the index, and list them in `skipped.txt`.
        progress: wraps the iteration over shards, to show it.

    Raises:
        BadInput: no shards there, a manifest already, a tar that is damaged, holds pickles or a bad sample, which is
            one without an image, with two, or with a label that names no class.
        Retry: storage failed, or a worker was killed. The same command resumes from the finished shards.
    """
    check_positive(workers=workers)
    folder = Path(os.path.abspath(folder))
    left_out = LeftOut()
    with storage_errors(folder):
        tars = sorted(tar for tar in folder.glob("[!.]*.tar") if tar.is_file())
        left_out.add(ELSEWHERE, count=_archives_elsewhere(folder, tars))
    if not tars:
        raise BadInput(f"{folder} is not a folder with .tar files; give one with webdataset shards")
    if os.path.lexists(folder / "manifest.json"):
        raise BadInput(f"{folder} has a manifest.json already; remove that file to index the shards again")
    webdataset_functions()
    with partial_folder(folder / ".index.partial") as partial:
        stamps = [f"{tar.name} {file_stamp(str(tar))}" for tar in tars]
        partial.claim({"shards": stamps, "versions": versions(), "rules": RULES})
        finished: list[FinishedShard] = []
        describe = bind(_index_shard, partial.done, skip_bad)
        events = in_workers(describe, tars, min(workers, len(tars)))
        for _ in progress(keep_results(events, finished), len(tars), "indexing"):
            pass
        finished.sort(key=lambda entry: entry.shard.name)
        skipped = write_skipped(folder, finished)
        shards = tuple(entry.shard for entry in finished if entry.shard.samples)
        if not shards:
            raise BadInput(f"no sample of {folder} holds an image that decodes; there is nothing to describe")
        for entry in finished:
            left_out.add_json(entry.left_out)
        if left_out:
            print(f"{folder.name}: left out {left_out}", file=sys.stderr)
        names = class_names({name for entry in finished for name in entry.classes}, folder)
        for entry in finished:
            entry.classes = {names[raw]: samples for raw, samples in entry.classes.items()}
        labels = class_numbers(dict.fromkeys(names.values(), folder))
        manifest = Manifest(
            shards,
            seed=None,
            source={"kind": "shards", "name": folder.name},
            classes=count_classes(finished, labels),
            versions=versions(),
            skipped=skipped,
        )
        write_whole(folder / "manifest.json", manifest.to_json())
    return say_skipped(folder, read_manifest(folder))


def _archives_elsewhere(folder: Path, tars: list[Path]) -> int:
    """How many someone may take for shards of this data set that are none."""
    near = [*folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*")]
    return sum(path.name.lower().endswith(ARCHIVES) and path.is_file() for path in near) - len(tars)


def _index_shard(done: Path, skip_bad: bool, tar: Path) -> Iterator[FinishedShard | None]:
    record = done / f"{tar.name}.json"
    finished = _standing(record, tar.with_suffix(".idx"))
    if finished is None or (finished.skipped and not skip_bad):
        finished = FinishedShard(Shard(tar.name, 0, 0, ""))
        try:
            with open(tar, "rb") as file:
                samples = list(_whole_samples(file, tar, skip_bad, finished))
        except TAR_ERRORS as error:
            raise BadInput(f"{tar} is damaged or no plain tar: {error}; make or copy it again") from None
        written = write_index(tar.with_suffix(".idx"), samples)
        finished.shard = Shard(tar.name, len(samples), tar.stat().st_size, sha256_of(tar), written)
        write_whole(record, finished.to_json())
    yield None
    yield finished


def _standing(record: Path, written: Path) -> FinishedShard | None:
    """The record of a shard that an earlier command finished, if its index is still that one.

    That the tar is still the same is part of the plan.
    """
    try:
        finished = FinishedShard.from_json(read_record(record))
        return finished if sha256_of(written) == finished.shard.index_sha256 else None
    except (OSError, KeyError, TypeError):
        return None


def _whole_samples(file: IO[bytes], tar: Path, skip_bad: bool, finished: FinishedShard) -> Iterator[list[Member]]:
    left_out = LeftOut()
    for sample in group_samples(plain_members(tar_members(file), left_out), left_out):
        name = clean_name(sample.members[0][1].name)
        pickled = [extension for extension, _ in sample.members if extension.rpartition(".")[2] in PICKLED]
        if pickled:
            raise BadInput(
                f"{tar}: sample {name} has a pickled member (.{pickled[0]}), which runs code where it is read; "
                f"take it out of the shard, or pack the images anew"
            )
        try:
            _check_image(file, sample)
            label = read_label(file, sample, left_out)
        except (BadImage, OddLabel) as error:
            if not skip_bad:
                raise BadInput(f"{tar}: sample {name}: {error}; repair it, or leave such out with --skip-bad") from None
            finished.skipped.append([f"{tar.name}/{name}", str(error)])
            continue
        if label:
            finished.classes[label] = finished.classes.get(label, 0) + 1
        yield sample.entry()
    finished.left_out = left_out.to_json()


def _check_image(file: IO[bytes], sample: Sample) -> None:
    if sample.fault():
        raise BadImage(sample.fault())
    (image,) = sample.of(*IMAGE_EXTENSIONS)
    if image.size > LARGEST:
        raise BadImage(f"more than {LARGEST} bytes")
    check_decodes(os.pread(file.fileno(), image.size, image.offset))
