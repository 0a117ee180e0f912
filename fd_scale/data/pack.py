"""Packing: a folder of images into shards, at shuffled places, the same bytes every time.

Class folders or flat. Original bytes are kept. Each image is decoded once, so that a damaged one is named here and
not in the middle of a run. Left to a later change: archives, lists and shards as sources, several processes, resume
after a kill, shrinking.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from fd_scale.data.shards import IMAGE_EXTENSIONS, Manifest, Member, Shard, read_manifest, write_index
from fd_scale.errors import BadInput

Progress = Callable[[Iterable, int, str], Iterable]


def find_images(source: Path) -> list[Path]:
    """All images below a folder, by name.

    Raises:
        BadInput: no folder, or no image in it.
    """
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder; give a folder of images")
    images = sorted(p for p in source.rglob("*") if p.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and p.is_file())
    if not images:
        raise BadInput(f"no images in {source}; looked for {', '.join(IMAGE_EXTENSIONS)} in it and below it")
    return images


def pack(
    source: Path,
    out: Path,
    *,
    shard_samples: int = 1000,
    seed: int = 0,
    progress: Progress = lambda items, total, label: items,
) -> Manifest:
    """Write the images below `source` into webdataset shards in `out`.

    The shards appear in `out` all at once, when they are complete. A class-sorted tar would defeat shuffling by groups
    of shards, so images are placed at random.

    Args:
        shard_samples: images in a shard.
        seed: of the placement.
        progress: wraps the iteration, to show it.

    Raises:
        BadInput: no images, an image that does not decode, or `out` holds something else.
    """
    images = find_images(source)
    _check_free(out)
    order = np.random.default_rng(seed).permutation(len(images))
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        shards = []
        samples = iter(progress(_samples(source, [images[i] for i in order]), len(images), "packing"))
        for first in range(0, len(images), shard_samples):
            count = min(shard_samples, len(images) - first)
            shards.append(_write_shard(aside / f"shard-{first // shard_samples:06d}.tar", samples, count))
        manifest = Manifest(tuple(shards), seed, {"folder": source.name, "images": len(images)})
        (aside / "manifest.json").write_text(manifest.to_json())
        if out.exists():
            out.rmdir()  # empty, as checked
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return read_manifest(out)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists already and is not empty; give a new folder, or remove it first")


def _samples(source: Path, images: list[Path]) -> Iterator[dict]:
    for number, path in enumerate(images):
        content = path.read_bytes()
        _check_decodes(path)
        origin = str(path.relative_to(source))
        extension = path.suffix.lower().lstrip(".")
        label = {"origin": origin, "folder": os.path.dirname(origin)}
        yield {"__key__": f"{number:09d}", extension: content, "json": json.dumps(label).encode()}


def _check_decodes(path: Path) -> None:
    try:
        with Image.open(path) as image:
            # An eighth of the scale still reads the whole JPEG stream, so a truncated file shows, at a fraction of
            # the time.
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise BadInput(f"{path} does not decode: {reason}; repair or remove it") from None


def _write_shard(path: Path, samples: Iterator[dict], count: int) -> Shard:
    # mtime and owner are fixed: the same images give the same bytes.
    with webdataset.TarWriter(str(path), user="fd_scale", group="fd_scale", mtime=0, encoder=False) as writer:
        for _ in range(count):
            writer.write(next(samples))
    write_index(path.with_suffix(".idx"), _members(path))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(path.name, count, path.stat().st_size, digest)


def _members(path: Path) -> list[list[Member]]:
    samples: dict[str, list[Member]] = {}
    with tarfile.open(path) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            samples.setdefault(key, []).append(Member(extension, info.offset_data, info.size, info.name))
    return list(samples.values())
