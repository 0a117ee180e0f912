"""COCO-format instances and index maps that are made, not downloaded: bright shapes on noise, in JPEGs of odd sizes."""

import json
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image, ImageDraw

# The metric wants a file to list all classes of the head; the shapes are of the first three.
CATEGORIES = dict(enumerate(CocoDataset.METAINFO["classes"], start=1))
COLOURS = {1: (230, 60, 60), 2: (60, 220, 80), 3: (70, 90, 235)}
BACKGROUND, CROWD = 0, 255
SIZES = ((96, 80), (75, 101), (110, 70), (64, 64))  # width, height


def write_mini_data(folder: Path, images: int = 4) -> tuple[Path, Path]:
    """`images` for training and as many for validation.

    Returns:
        The folder of images and instances, and that of index maps; laid out like `coco_mini` and `coco_mini_semantic`.
    """
    instances, maps = folder / "coco_mini", folder / "coco_mini_semantic"
    (instances / "images").mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        (maps / split).mkdir(parents=True)
        content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": identity, "name": name} for identity, name in CATEGORIES.items()],
        }
        for image_id in range(number * images, (number + 1) * images):
            _write_image(image_id, instances / "images", maps / split, content)
        (instances / f"instances_{split}.json").write_text(json.dumps(content))
    (maps / "classes.json").write_text(json.dumps({0: "background", **CATEGORIES, 255: "ignore"}))
    return instances, maps


def _write_image(image_id: int, images: Path, maps: Path, content: dict) -> None:
    """One shape of each of three categories beside the others, the last of every second image marked as a crowd."""
    random = np.random.default_rng(image_id)
    width, height = SIZES[image_id % len(SIZES)]
    image = Image.fromarray(random.integers(0, 90, (height, width, 3), dtype=np.uint8))
    index_map = Image.new("L", (width, height), BACKGROUND)
    name = f"{image_id:012d}"
    content["images"].append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
    for index, category in enumerate(random.permutation(list(COLOURS)).tolist()):
        polygon = _polygon(random, category, left=index * width // 3, width=width // 3, height=height)
        crowd = index == 2 and image_id % 2 == 1
        ImageDraw.Draw(image).polygon(polygon, fill=COLOURS[category])
        ImageDraw.Draw(index_map).polygon(polygon, fill=CROWD if crowd else category)
        content["annotations"].append(_annotation(len(content["annotations"]), image_id, category, polygon, crowd))
    image.save(images / f"{name}.jpg", quality=90)
    index_map.save(maps / f"{name}.png")


def _polygon(random: np.random.Generator, category: int, *, left: int, width: int, height: int) -> list[tuple]:
    """A regular polygon of 3, 4 or 8 corners in its third of the image."""
    corners = {1: 3, 2: 4, 3: 8}[category]
    radius = random.uniform(0.35, 0.48) * width
    centre = np.array([left + width / 2, random.uniform(radius + 1, height - radius - 1)])
    angles = random.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    points = centre + radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return [tuple(point) for point in points.round(1).tolist()]


def _annotation(number: int, image_id: int, category: int, polygon: list[tuple], crowd: bool) -> dict:
    x, y = np.array(polygon).T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return {
        "id": 10_000 * (image_id + 1) + number,
        "image_id": image_id,
        "category_id": category,
        "iscrowd": int(crowd),
        "bbox": [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()],
        "area": float(area),
        "segmentation": [[float(value) for point in polygon for value in point]],
    }
