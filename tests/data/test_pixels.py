"""Pixels are right or refused: shrinking, deep images, one limit everywhere, bounded views."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fd_scale.data import image_bytes, view
from fd_scale.data.config import EvaluationView, ViewConfig
from fd_scale.data.decode import BadSample, decode
from fd_scale.data.image_bytes import BadImage, check_decodes, shrink
from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.verify import verify
from fd_scale.data.view import centre_view, evaluation_view, random_view
from fd_scale.errors import BadInput

SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)).resize((80, 60))
)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def transparent(mode: str) -> Image.Image:
    """All of it, with a picture beneath."""
    pixels = SMOOTH.copy()
    pixels[..., 3] = 0
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGB").quantize(64)
        image.info["transparency"] = bytes(256)
        return image
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "TIFF"), ("LA", "TIFF"), ("RGBA", "WEBP")],
)
def test_shrinking_a_transparent_image_and_reading_it_is_reading_and_shrinking_it(mode, kind):
    options = {"exact": True, "lossless": True} if kind == "WEBP" else {}
    content = encoded(transparent(mode), kind, **options)
    smaller = shrink(content, 20)
    assert smaller is not None
    wanted = np.asarray(decode(content).resize((27, 20), Image.Resampling.LANCZOS), int)
    assert wanted.max() > 100
    assert np.abs(np.asarray(decode(smaller[0]), int) - wanted).max() <= 1


def test_shrinking_16_bits_and_reading_them_is_reading_and_shrinking_them():
    deep = encoded(Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257))
    smaller = shrink(deep, 20)
    assert smaller is not None
    wanted = np.asarray(decode(deep).resize((27, 20), Image.Resampling.LANCZOS), int)
    assert np.abs(np.asarray(decode(smaller[0]), int) - wanted).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused_everywhere(dtype, tmp_path):
    content = encoded(Image.fromarray((SMOOTH[..., 0] / 255).astype(dtype)), "TIFF")
    with pytest.raises(BadImage, match="pixels have no agreed range; convert them to 8 or 16 bits"):
        check_decodes(content)
    with pytest.raises(BadSample, match="undecodable"):
        decode(content)
    (tmp_path / "a.tif").write_bytes(content)
    (tmp_path / "a.csv").write_text("path\na.tif\n")
    for short_side in (None, 20):
        with pytest.raises(BadInput, match=r"a.tif does not decode: .* no agreed range"):
            pack(tmp_path / "a.csv", tmp_path / "out", short_side=short_side)


def tiff_16(values: np.ndarray, photometric: int = 1) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", tiffinfo={262: photometric})


def test_a_deep_tiff_that_counts_white_as_zero_is_turned_and_not_shrunk():
    values = SMOOTH[..., 0].astype(np.uint16) * 257
    content = tiff_16(values, photometric=0)
    assert np.array_equal(np.asarray(decode(content))[..., 0], 255 - SMOOTH[..., 0])
    assert shrink(content, 20) is None
    assert np.array_equal(np.asarray(decode(tiff_16(values)))[..., 0], SMOOTH[..., 0])


def test_one_limit_of_pixels_for_packing_verifying_and_reading(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encoded(Image.new("RGB", (60, 50))))
    pack(tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr(image_bytes, "MAX_PIXELS", 2999)
    for short_side in (None, 20):
        with pytest.raises(BadInput, match="60 x 50 are more than 2999 pixels"):
            pack(tmp_path / "in", tmp_path / "again", short_side=short_side)
    assert [damage.reason for damage in verify(tmp_path / "out")] == ["60 x 50 are more than 2999 pixels"]
    with pytest.raises(BadSample, match="huge"):
        decode((tmp_path / "in/a.png").read_bytes())
    monkeypatch.setattr(image_bytes, "MAX_PIXELS", 3000)
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 2_000_000)])
def test_a_thread_of_an_image_takes_bounded_memory_in_every_view(size, monkeypatch):
    largest = 0
    resize = Image.Image.resize

    def watched(self, wanted, *args, **kwargs):
        nonlocal largest
        largest = max(largest, wanted[0] * wanted[1])
        return resize(self, wanted, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.new("RGB", size, (9, 200, 30))
    views = [evaluation_view(image, 224, EvaluationView(interpolation=name)) for name in ("bilinear", "bicubic")]
    views += [random_view(image, ViewConfig(), 0, step, 0) for step in range(3)] + [centre_view(image, 224)]
    assert largest <= view.MOST_RESIZED
    for found in views:
        assert torch.equal(found, torch.tensor([9, 200, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 224, 224))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_a_part_shows_what_resizing_the_whole_shows(interpolation, monkeypatch):
    random = np.random.default_rng(1)
    for size in [(3, 700), (700, 3), (40, 90), (200, 61)]:
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        image = coarse.resize(size, Image.Resampling.BICUBIC)
        config = EvaluationView(interpolation=interpolation)
        monkeypatch.setattr(view, "MOST_RESIZED", 2**25)
        whole = evaluation_view(image, 28, config)
        monkeypatch.setattr(view, "MOST_RESIZED", 0)
        assert (evaluation_view(image, 28, config).int() - whole.int()).abs().max() <= 2
