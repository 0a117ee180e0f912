"""Split an archive or a folder with train/<class>/ and test/<class>/, and pack the parts for `fd-scale`.

The choice is drawn once from a fixed seed, the same number of every class, and is the same for every run of the tool.
"""

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.miniature.plan import Images
from fd_scale import api
from fd_scale.data.item import Item
from fd_scale.data.packing.sources import list_source, read_item
from fd_scale.errors import BadInput

LABELLED, TUNING, UNLABELLED, TEST = "labelled", "tuning", "unlabelled", "test"
PACKED = (LABELLED, TUNING, TEST)
SEED = 0


def split_images(source: Path, counts: Images, out: Path) -> None:
    """Write `out/<part>/<class>/`, whole or not at all. Raises BadInput: too few images, or no such folders in it."""
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    spool = aside / "spool"
    spool.mkdir(parents=True)
    listed = list_source(source, spool, force=True).items  # train and test are told apart here
    train, test = (_by_class(listed, name, source) for name in ("train", "test"))
    if train.keys() != test.keys():
        names = ", ".join(sorted(train.keys() ^ test.keys()))
        raise BadInput(f"{source}: the classes of train and test differ ({names}); give images of the same classes")
    random = np.random.default_rng(SEED)
    for name in sorted(train):
        wanted = [(TUNING, counts.tuning), (LABELLED, counts.labelled), (UNLABELLED, counts.unlabelled)]
        _write(train[name], wanted, aside, name, len(train), random)
        _write(test[name], [(TEST, counts.test)], aside, name, len(train), random)
    shutil.rmtree(spool)
    aside.rename(out)


def pack_images(folder: Path, shards: Path) -> None:
    """Pack the parts that models are trained and judged on."""
    for part in PACKED:
        if not (shards / part / "manifest.json").exists():
            api.pack(folder / part, shards / part, workers=1)


def files_of(folder: Path, parts: tuple[str, ...]) -> list[Path]:
    return sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())


def _by_class(items: list[Item], part: str, source: Path) -> dict[str, list[Item]]:
    found = defaultdict(list)
    for item in items:
        folders = item.origin.split("/")[:-1]
        if part in folders[:-1]:
            found[folders[folders.index(part) + 1]].append(item)
    if len(found) < 2:
        raise BadInput(
            f"{source} holds {len(found)} classes in {part}/<class>/; give an archive or folder with 2 or more"
        )
    return found


def _write(
    items: list[Item],
    wanted: list[tuple[str, int | None]],
    out: Path,
    name: str,
    classes: int,
    random: np.random.Generator,
) -> None:
    left = [items[number] for number in random.permutation(len(items))]
    for part, count in wanted:
        each = len(left) if count is None else count // classes
        if each > len(left) or (each < 1 and count != 0 and part != UNLABELLED):
            raise BadInput(
                f"images.{part}={count} takes {each} images of each of {classes} classes, and {name} has {len(left)} "
                f"left; give a number that fits"
            )
        chosen, left = left[:each], left[each:]
        folder = out / part / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, item in enumerate(chosen):
            (folder / f"{number:05d}{Path(item.origin).suffix.lower()}").write_bytes(read_item(item))
