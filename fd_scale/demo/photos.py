"""Real photographs for a machine without data: those that installed packages carry, or a user's folder, cut into crops.

The split is by photograph: training and held-out crops never come from the same one. That many crops of a few
photographs can teach a small model is arXiv 1904.13132. Leaves out downloads, and near-duplicates in a user's folder:
a burst of one scene can fall on both sides.
"""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fd_scale.data.image_bytes import BadImage, opened, to_rgb
from fd_scale.data.left_out import LeftOut, is_image
from fd_scale.data.shards import IMAGE_EXTENSIONS
from fd_scale.errors import BadInput

SUFFIXES = tuple(f".{extension}" for extension in sorted(IMAGE_EXTENSIONS))
MIN_PHOTOGRAPHS = 8
MIN_HELD_OUT = 4
ORIENTATION = 0x0112  # the tag of EXIF
MIN_SIDE = 64  # pixels; below this it is an icon

# Every photograph inside the three wheels; drawings, charts, silhouettes and scanned text are left out, and the right
# half of the stereo motorcycle, whose left half is here. Held out: four natural colour photographs, none alike.
HELD_OUT = {
    "chelsea": "skimage/data/chelsea.png",  # a cat; Stefan van der Walt, CC0
    "coffee": "skimage/data/coffee.png",  # a cup on a table; Rachel Michetti, CC0
    "grace_hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",  # a portrait; US Navy, public domain
    "rocket": "skimage/data/rocket.jpg",  # a launch site at dusk; SpaceX, public domain
}
TRAINING = {
    "astronaut": "skimage/data/astronaut.png",  # NASA, public domain
    "brick": "skimage/data/brick.png",  # grey; CC0 Textures, CC0
    "camera": "skimage/data/camera.png",  # grey; Lav Varshney, CC0
    "china": "sklearn/datasets/images/china.jpg",  # danielbuechele, CC BY 2.0
    "coins": "skimage/data/coins.png",  # grey; Brooklyn Museum, no known restrictions
    "flower": "sklearn/datasets/images/flower.jpg",  # vultilion, CC BY 2.0
    "grass": "skimage/data/grass.png",  # grey; Linolafett, CC0
    "gravel": "skimage/data/gravel.png",  # grey; CC0 Textures, CC0
    "hubble_deep_field": "skimage/data/hubble_deep_field.jpg",  # NASA, public domain
    "ihc": "skimage/data/ihc.png",  # stained tissue; CMMI, no known restrictions
    "moon": "skimage/data/moon.png",  # grey; scikit-image states no source
    "motorcycle": "skimage/data/motorcycle_left.png",  # in a garage; Middlebury 2014 stereo benchmark
    "retina": "skimage/data/retina.jpg",  # Mikael Häggström, CC0
}
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


@dataclass(frozen=True)
class Photograph:
    name: str
    path: Path
    held_out: bool


def photographs(source: Path | None) -> list[Photograph]:
    """List the photographs of a folder, searched recursively, or those of installed packages for None.

    Held out: of the packages' photographs those of `HELD_OUT`; of a folder every n-th by sorted path, where n is 5, or
    less when that would hold out fewer than four. Files are only listed; `write_crops` decodes them.
    Raises BadInput for a missing package and for a folder with too few images.
    """
    if source is None:
        packaged = sorted({**TRAINING, **HELD_OUT}.items())
        return [Photograph(name, _packaged(file), name in HELD_OUT) for name, file in packaged]
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder: give a folder of photographs")
    left_out = LeftOut()
    paths = []
    for path in sorted(source.rglob("*")):
        if left_out.add_hidden(str(path.relative_to(source))) or path.is_dir():
            continue
        if is_image(path.name):
            paths.append(path)
        else:
            left_out.add_file(path.name)
    if left_out:
        print(f"{source.name}: left out {left_out}", file=sys.stderr)
    if len(paths) < MIN_PHOTOGRAPHS:
        raise BadInput(
            f"{len(paths)} images ({' '.join(SUFFIXES)}) in {source}: give a folder with at least "
            f"{MIN_PHOTOGRAPHS} photographs, {MIN_HELD_OUT} of which are held out"
        )
    every = min(5, len(paths) // MIN_HELD_OUT)
    names = _unique_names([path.relative_to(source) for path in paths])
    return [Photograph(names[i], path, i % every == every - 1) for i, path in enumerate(paths)]


def write_crops(
    photographs: Sequence[Photograph], out_folder: Path, count: int = 1000, size: int = 160, seed: int = 0
) -> None:
    """Cut about `count` overlapping square crops of photographs into `out_folder`.

    They are JPEGs of `size` pixels. The folder must not exist.

    They lie in `train/<photograph>/NNNN.jpg` and `heldout/<photograph>/NNNN.jpg`; each photograph gives the same
    number, from its whole short side down to `size` pixels, spread evenly over its area. Of more photographs than
    `count` an even selection is taken. Equal arguments give equal bytes. The folder appears complete or not at all.
    Raises BadInput for an image that cannot be decoded or is too small.
    """
    if out_folder.exists():
        raise BadInput(f"{out_folder} exists already: remove it or name another folder for the crops")
    stride = -(-len(photographs) // count)
    chosen = [p for split in (False, True) for p in [q for q in photographs if q.held_out is split][::stride]]
    per_photograph = max(1, round(count / len(chosen)))
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_folder.name}-", dir=out_folder.parent))
    try:
        for index, photograph in enumerate(chosen):
            folder = partial / ("heldout" if photograph.held_out else "train") / photograph.name
            folder.mkdir(parents=True)
            image = _decode(photograph.path, max_short_side=4 * size)
            for i, box in enumerate(crop_boxes(image.size, per_photograph, size, seed + index)):
                crop = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
                crop.save(folder / f"{i:04d}.jpg", quality=92)
        partial.chmod(0o755)  # mkdtemp's folders are private
        partial.rename(out_folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def crop_boxes(
    image_size: tuple[int, int], count: int, size: int, seed: int
) -> list[tuple[float, float, float, float]]:
    """Choose `count` square boxes (left, top, right, bottom) in an image of (width, height).

    Their sides go from the short side down to `size`.

    Scale and position follow the additive sequence of the 3-dimensional golden ratio, which fills the cube evenly for
    any count (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018), from a start set by `seed`.
    """
    width, height = image_size
    short = min(width, height)
    golden = 1.2207440846057596  # the root of x**4 = x + 1
    start = np.random.default_rng(seed).random(3)
    steps = np.arange(count)[:, None] / golden ** np.arange(1, 4)  # (count, 3)
    boxes = []
    for scale, x, y in (start + steps) % 1.0:
        side = short * (min(size, short) / short) ** scale
        left, top = x * (width - side), y * (height - side)
        boxes.append((left, top, left + side, top + side))
    return boxes


def _packaged(file: str) -> Path:
    package, inside = file.split("/", 1)
    found = importlib.util.find_spec(package)  # where the photographs lie, without importing the package
    path = Path(found.submodule_search_locations[0]) / inside if found and found.submodule_search_locations else None
    if path is None or not path.is_file():
        raise BadInput(
            f"the photograph {file} is missing: install {DISTRIBUTIONS[package]} as a wheel "
            '(pip install "fd-scale[demo]"), or give a folder of your own photographs'
        )
    return path


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """One folder name for each relative path: its parts joined; equal ones (a.jpg beside a.png) get their rank."""
    names: dict[str, None] = {}
    for path in paths:
        base = name = "_".join(path.with_suffix("").parts)
        rank = 1
        while name in names:
            rank += 1
            name = f"{base}-{rank}"
        names[name] = None
    return list(names)


def _decode(path: Path, max_short_side: int) -> Image.Image:
    """The photograph as RGB, turned as its camera was held, its short side at most `max_short_side`."""
    try:
        with opened(path.read_bytes()) as image:
            image.draft("RGB", (max_short_side, max_short_side))  # JPEG: decode only the resolution that is needed
            orientation = image.getexif().get(ORIENTATION)
            rgb = to_rgb(image)
            if orientation:
                rgb.getexif()[ORIENTATION] = orientation
            upright = ImageOps.exif_transpose(rgb)
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot decode {path} ({error}): remove it from the folder") from error
    short = min(upright.size)
    if short < MIN_SIDE:
        raise BadInput(f"{path} is {upright.width} x {upright.height}: remove it, or give one of {MIN_SIDE} or more")
    shrink = min(1.0, max_short_side / short)
    return upright.resize((round(upright.width * shrink), round(upright.height * shrink)), Image.Resampling.LANCZOS)
