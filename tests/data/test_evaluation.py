"""Evaluation data: every image once over any number of ranks, the published view, no silent gaps."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fd_scale.batch_plan import BatchPlan
from fd_scale.data.config import DataConfig, EvaluationView, ViewConfig
from fd_scale.data.evaluation import EvaluationData
from fd_scale.data.loader import TrainingData
from fd_scale.data.packing.index import index
from fd_scale.data.packing.pack import pack
from fd_scale.data.reader import open_reader
from fd_scale.data.shards import read_index
from fd_scale.data.view import evaluation_view
from fd_scale.errors import BadInput

VIEW = EvaluationView()


def data_of(shards) -> EvaluationData:
    return EvaluationData(str(shards), 16, VIEW, workers=0)


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.01])
def test_a_crop_that_is_no_share_of_the_image_is_refused(shards, crop):
    with pytest.raises(BadInput, match=rf"crop of {crop} of the short side is not in \(0, 1\]; 0.875 is usual"):
        EvaluationData(str(shards), 16, EvaluationView(crop), workers=0)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("batch", [1, 7])
def test_every_image_counts_exactly_once_and_ranks_stay_in_step(shards, world, batch):
    data = data_of(shards)
    per_rank = [list(data.batches(rank, world, batch)) for rank in range(world)]
    assert len({len(batches) for batches in per_rank}) == 1
    seen = Counter(
        (image.numpy().tobytes(), int(label))
        for batches in per_rank
        for found in batches
        for image, label, real in zip(found.images, found.labels, found.real, strict=True)
        if real
    )
    reader = open_reader(str(shards))
    assert sum(seen.values()) == len(reader) == 48
    assert set(seen.values()) == {1}
    assert Counter(label for _, label in seen) == {0: 24, 1: 24}
    assert all(len(found.images) == batch for batches in per_rank for found in batches)


def test_labels_belong_to_their_images(image_folder, shards):
    """Against the source: an image of class_1 carries 1, in training and in evaluation."""
    of_pixels = {
        evaluation_view(Image.open(path), 16, VIEW).numpy().tobytes(): int(path.parent.name[-1])
        for path in image_folder.rglob("*.jpg")
    }
    for found in data_of(shards).batches(0, 1, 6):
        for image, label in zip(found.images, found.labels, strict=True):
            assert of_pixels[image.numpy().tobytes()] == int(label)
    data = TrainingData(DataConfig(str(shards), ViewConfig(image_size=16), workers=0), seed=0, labelled=True)
    reader = data.readers[0]
    of_id = {reader[number].id: reader.label(number) for number in range(48)}
    for batch in data.micro_batches(range(3), 0, BatchPlan(12, 6, 1)):
        assert batch.labels.tolist() == [of_id[sample] for sample in batch.ids]


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (16, 16), (300, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_view_is_torchvisions_resize_and_centre_crop(size, interpolation):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    published = v2.Compose(
        [v2.Resize(int(256 / 224 * 28), v2.InterpolationMode(interpolation)), v2.CenterCrop(28), v2.PILToTensor()]
    )
    found = evaluation_view(image, 28, EvaluationView(interpolation=interpolation))
    assert torch.equal(found, published(image))


def test_labels_of_other_programs_shards_count_in_the_order_of_the_numbers_that_they_hold(image_folder, tmp_path):
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:9]):
            tar.write({"__key__": f"{number:03d}", "jpg": path.read_bytes(), "cls": 7 if number % 3 else 2})
    index(tmp_path, workers=1)
    data = data_of(tmp_path)
    assert data.classes.count == 2
    labels = torch.cat([found.labels[found.real] for found in data.batches(0, 1, 4)])
    assert labels.tolist() == [1 if number % 3 else 0 for number in range(9)]


def test_data_without_labels_is_refused(image_folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(image_folder.rglob("*.jpg"))[:5]:
        shutil.copy(path, flat)
    pack(flat, tmp_path / "packed")
    with pytest.raises(BadInput, match=r"5 of 5 samples in .*packed have no label; pack class folders, or a list"):
        data_of(tmp_path / "packed")
    with pytest.raises(BadInput, match=r"10 of 10 samples in synthetic:10 have no label"):
        data_of("synthetic:10")


def test_an_image_that_does_not_decode_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    (member,) = [m for m in read_index(copy / "shard-000000.idx")[3] if m.extension == "jpg"]
    with open(copy / "shard-000000.tar", "r+b") as file:
        file.seek(member.offset)
        file.write(b"\0" * member.bytes)
    with pytest.raises(BadInput, match=rf"sample|shard-000000.tar/{member.name} does not decode; a result without it"):
        list(data_of(copy).batches(0, 1, 8))
