"""Data sets whose images show which class they are of, whatever number it has."""

from pathlib import Path

from PIL import Image

from fd_scale.data.classes import Classes
from fd_scale.data.packing.pack import pack

COLOURS = {
    "ant": (250, 10, 10),
    "bee": (10, 250, 10),
    "cat": (10, 10, 250),
    "dog": (250, 250, 10),
    "eel": (10, 250, 250),
}


def coloured(folder: Path, names: dict[str, int]) -> Path:
    """Shards of images whose colour is their class, whatever its number; so many of each."""
    for name, images in names.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (20, 20), COLOURS[name]).save(folder / "images" / name / f"{number}.png")
    pack(folder / "images", folder / "shards", shard_samples=4)
    return folder / "shards"


def names_seen(images, labels, known: Classes) -> list[tuple[str, str]]:
    """(class by colour, class by label) of each image."""
    by_colour = {colour: name for name, colour in COLOURS.items()}
    by_label = {number: name for name, number in known.names.items()}
    return [
        (by_colour[tuple(image[:, 0, 0].tolist())], by_label[label])
        for image, label in zip(images, labels.tolist(), strict=True)
    ]
